"""A lane's slice of the global microbatch.

All ranks draw the same global microbatch (`sampler.py`), and every module's lane takes its own slice of it. On a rank
that holds several modules, the keys of one batch are therefore sliced differently. A tensor whose rows are not samples
must be named: guessing from its length would mix samples whenever the lengths happen to agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from planner import MIMO_LANGUAGE_MODULE_KEY, Plan, RankView
from planner.layout.batch_keys import INPUT_IDS, MODALITY_INPUTS, POSITION_IDS

from ..errors import ExecutorError
from ..start import device

MODALITY_INPUT_IDS = "modality_input_ids"  # PlannedMimoModel's: per encoder, its lane's input_ids
NumItems = Mapping[str, Sequence[int]]
_PACKING = "packing_kwargs"  # MimoModel's: cu_seqlens, max_seqlen
_MROPE_DIMS = 3  # (3, samples, tokens): multimodal rotary positions have their channels first


def batch_of_rank(plan: Plan, view: RankView, batch: Mapping[str, Any], num_items: NumItems) -> dict[str, Any]:
    """The part of a global microbatch that a rank's `model(**batch)` takes.

    Language's keys are sliced for language's lane, or, on a rank without language, for the lane of its first encoder.
    Each encoder also gets the input_ids of its own lane, in which it finds the boundaries of its samples. An encoder's
    inputs are sliced for its lane on its first stage; they are left out on other stages, and if the lane's samples have
    none. All tensors are moved to this process's device.

    Args:
        plan: the plan.
        view: the rank's view of the plan.
        batch: the global microbatch; `modality_inputs` maps modules to their inputs.
        num_items: see `slice_batch`. Encoders whose tokens per sample vary must be in it, by module or by key.

    Raises:
        ExecutorError: the rows of a tensor are neither samples nor items.
    """
    micro_size = plan.batch_sizes.micro_size
    text = {key: value for key, value in batch.items() if key != MODALITY_INPUTS}
    samples = view.batch_slices.get(MIMO_LANGUAGE_MODULE_KEY) or next(iter(view.batch_slices.values()))
    found = slice_batch(text, samples, micro_size, num_items)
    inputs, ids = {}, {}
    for name in view.role.modality_module_names:
        ids[name] = batch[INPUT_IDS][view.batch_slices[name]]
        given = (batch.get(MODALITY_INPUTS) or {}).get(name)
        if given is None or not view.role.is_first_stage(name):
            continue
        varies = plan.module(name).output.tokens_per_sample is None
        cut = _Cut(view.batch_slices[name], micro_size, num_items, varies)
        sliced = _sliced((MODALITY_INPUTS, name), given, cut)
        if cut.num_rows:
            inputs[name] = sliced
    return _on_device(found | {MODALITY_INPUTS: inputs or None, MODALITY_INPUT_IDS: ids}, device.current())


def slice_batch(
    batch: Mapping[str, Any], samples: slice, micro_size: int, num_items: NumItems | None = None
) -> dict[str, Any]:
    """The part of a microbatch that belongs to `samples`.

    Args:
        batch: tensors, sequences, plain values, and mappings of these. Tensors and sequences hold the samples in
            dim 0; mRoPE position ids (3, samples, tokens) in dim 1; what `num_items` names holds images, patches or
            clips in dim 0.
        samples: the lane's samples, `plan.batch.slice(module, rank)`.
        micro_size: samples of the whole microbatch.
        num_items: for each key, how many rows each sample has. The name of a mapping applies to all that is in it;
            if several names lead to a tensor, the innermost counts.

    Raises:
        ExecutorError: the rows of a tensor are neither samples nor items.
    """
    cut = _Cut(samples, micro_size, num_items or {}, False)
    return {key: _sliced((key,), value, cut) for key, value in batch.items()}


class _Cut:
    """Which rows of a microbatch's tensors belong to a lane.

    Attributes:
        named_only: whether every tensor must be in `num_items`.
        num_rows: rows of all tensors that were cut so far.
    """

    def __init__(self, samples: slice, micro_size: int, num_items: NumItems, named_only: bool) -> None:
        self.samples, self.micro_size, self.num_items, self.named_only = samples, micro_size, num_items, named_only
        self.num_rows = 0

    def rows(self, path: tuple[str, ...], found: int) -> slice:
        """The rows of a tensor or sequence of `found` rows."""
        chosen = self._rows(path, found)
        self.num_rows += chosen.stop - chosen.start
        return chosen

    def _rows(self, path: tuple[str, ...], found: int) -> slice:
        name = next((name for name in reversed(path) if name in self.num_items), None)
        where = f"batch key {'.'.join(path)}"
        if name is None:
            if found == 1 < self.micro_size and not self.named_only:
                raise ExecutorError(
                    f"{where}: dim 0 has the microbatch's {self.micro_size} samples, got 1 row; if all samples share "
                    f"it, leave it out, or expand it to {self.micro_size} rows"
                )
            if self.named_only or found != self.micro_size:
                needed = "rows vary" if self.named_only else f"dim 0 has the microbatch's {self.micro_size} samples"
                raise ExecutorError(f"{where}: {needed}, got {found} rows; give its rows per sample in num_items")
            return self.samples
        counts = self.num_items[name]
        if (len(counts), sum(counts)) != (self.micro_size, found):
            raise ExecutorError(
                f"{where}: num_items[{name!r}] has {self.micro_size} samples and {found} rows in all, "
                f"got {len(counts)} and {sum(counts)}"
            )
        first = sum(counts[: self.samples.start])
        return slice(first, first + sum(counts[self.samples]))


def _sliced(path: tuple[str, ...], value: Any, cut: _Cut) -> Any:
    if path[-1] == _PACKING and value:
        raise ExecutorError(
            f"batch key {'.'.join(path)}: {', '.join(value)} describe the packed sequences of one lane, and no rows "
            "to cut; leave them out of the global microbatch, and build them from the lane's own slice"
        )
    if isinstance(value, Mapping):
        return {name: _sliced((*path, name), item, cut) for name, item in value.items()}
    if isinstance(value, torch.Tensor) and value.ndim:
        if path[-1] == POSITION_IDS and value.ndim == _MROPE_DIMS:
            return value[:, cut.rows(path, value.shape[1])]
        return value[cut.rows(path, value.shape[0])]
    if isinstance(value, list | tuple):
        return value[cut.rows(path, len(value))]
    return value


def _on_device(value: Any, target: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {key: _on_device(item, target) for key, item in value.items()}
    if isinstance(value, list | tuple):
        moved = [_on_device(item, target) for item in value]
        return moved if isinstance(value, list) else tuple(moved)
    return value.to(target) if isinstance(value, torch.Tensor) else value
