"""The batch keys that a rank must be fed, by module and stage.

All ranks draw the same global microbatch, and each takes its lane's slice of the keys that it reads. Encoders find the
boundaries of samples in input_ids, so their last stage needs it too.
"""

from __future__ import annotations

from functools import cache

INPUT_IDS = "input_ids"
POSITION_IDS = "position_ids"
LABELS = "labels"
LOSS_MASK = "loss_mask"
MODALITY_INPUTS = "modality_inputs"  # the module's own entry of the batch: pixels, spectrograms, targets of a generator


@cache
def data_needs(is_language: bool, follows_language: bool, first: bool, last: bool) -> tuple[str, ...]:
    """The batch keys of one stage of one module.

    An encoder reads its inputs and input_ids on its first stage, and input_ids on its last. Language reads
    position_ids on every stage, input_ids on the first, and labels and loss_mask on the last. A module after language
    reads input_ids on its first and last stage, and on the last also its own entry of the batch, the targets.
    """
    if is_language:
        needs = [(POSITION_IDS, True), (INPUT_IDS, first), (LABELS, last), (LOSS_MASK, last)]
    else:
        needs = [(MODALITY_INPUTS, last if follows_language else first), (INPUT_IDS, first or last)]
    return tuple(key for key, needed in needs if needed)
