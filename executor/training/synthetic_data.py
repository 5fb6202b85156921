"""Synthetic batches: every rank draws the same samples in the same order and takes its lane's slice.

A sample is text with images (or clips) at random places, then padding, so the number of tokens differs between samples.
If a module's `tokens_per_sample` is fixed, every sample has the same number of items; otherwise the number varies and
may be zero. `text_only` microbatches have no items at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import attrs
import torch

from planner import MIMO_LANGUAGE_MODULE_KEY, ModulePlan, Plan
from planner.layout import bridges
from planner.layout.batch_keys import INPUT_IDS, LABELS, LOSS_MASK, MODALITY_INPUTS, POSITION_IDS
from planner.limits.samples import PADDING, most_items

from ..errors import ExecutorError
from ..model.transformer import model_of


@attrs.frozen(eq=False)
class Microbatch:
    """The samples of one microbatch of the whole model.

    Attributes:
        text: language's tensors, each of shape (samples, tokens).
        items: for each module, all its inputs in order of samples, of shape (items, ...).
        num_items: for each module, the number of items in each sample.
    """

    text: Mapping[str, torch.Tensor]
    items: Mapping[str, torch.Tensor]
    num_items: Mapping[str, tuple[int, ...]]

    def as_batch(self, encoders: Mapping[str, str]) -> dict[str, Any]:
        """The arguments of MimoModel's forward; `encoders` maps each module to the name of its encoder."""
        inputs = {name: {encoders[name]: {"inputs": items}} for name, items in self.items.items()}
        return {**self.text, MODALITY_INPUTS: inputs}


@attrs.frozen
class Synthetic:
    """A source of microbatches: the same ones for any layout of a plan, and for its one-rank reference.

    Attributes:
        plan: the plan whose sizes the batches have.
        seed: seed of the samples.
        text_only: indices, within each step, of the microbatches without any image or clip.
        text_only_steps: steps whose microbatches all have none.
    """

    plan: Plan
    seed: int
    text_only: tuple[int, ...] = ()
    text_only_steps: tuple[int, ...] = ()

    def __attrs_post_init__(self) -> None:
        fixed = [module.name for module in self.plan.modules if module.output.tokens_per_sample is not None]
        if fixed and (self.text_only or self.text_only_steps):
            rule = "a fixed tokens_per_sample is that of every sample, but some microbatches have only text"
            raise ExecutorError(f"modules.{fixed[0]}.output: {rule}; leave tokens_per_sample out if it varies")

    def microbatch(self, step: int, index: int) -> Microbatch:
        """Microbatch `index` of `step`, on the CPU."""
        digest = hashlib.sha256(f"{self.seed}:{step}:{index}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        encoders = [module for module in self.plan.modules if not module.is_language]
        empty = index in self.text_only or step in self.text_only_steps
        counts = {module.name: self._counts(module, empty, generator) for module in encoders}
        ids = torch.stack([self._sample(counts, sample, generator) for sample in range(self._micro_size)])
        items = {
            module.name: torch.randn(sum(counts[module.name]), *item_shape(module), generator=generator)
            for module in encoders
        }
        return Microbatch(self._text(ids), items, counts)

    @property
    def _micro_size(self) -> int:
        return self.plan.batch_sizes.micro_size

    def _counts(self, module: ModulePlan, empty: bool, generator: torch.Generator) -> tuple[int, ...]:
        if empty:
            return (0,) * self._micro_size
        fixed = module.output.tokens_per_sample
        if fixed is not None:
            return (fixed // tokens_per_item(module),) * self._micro_size
        most = most_items(self.plan, module)
        return tuple(torch.randint(0, most + 1, (self._micro_size,), generator=generator).tolist())

    def _sample(self, counts: Mapping[str, tuple[int, ...]], sample: int, generator: torch.Generator) -> torch.Tensor:
        """The token ids of one sample: text with runs of special tokens, then padding."""
        length, specials = self.plan.batch_sizes.seq_length, self._specials()
        runs = [
            torch.full((tokens_per_item(self.plan.module(name)),), specials[name])
            for name, per_sample in counts.items()
            for _ in range(per_sample[sample])
        ]
        room = length - sum(map(len, runs))
        if room < 1:
            raise ExecutorError(f"a sample's images and clips fill seq_length = {length}; raise batch.seq_length")
        num_text = int(torch.randint(max(1, room // 2), room + 1, (1,), generator=generator))
        pieces = self._cut(self._words(num_text, generator), len(runs), generator)
        runs.append(torch.empty(0, dtype=torch.long))  # after the last piece of text
        ids = torch.cat([tokens for pair in zip(pieces, runs, strict=True) for tokens in pair])
        return torch.nn.functional.pad(ids, (0, length - len(ids)), value=PADDING)

    def _words(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Random ids of the vocabulary, except padding and special tokens."""
        vocabulary = model_of(self.plan.module(MIMO_LANGUAGE_MODULE_KEY)).vocab_size or 1
        taken = sorted({PADDING, *self._specials().values()})
        words = torch.randint(0, max(1, vocabulary - len(taken)), (count,), generator=generator)
        for token in taken:
            words[words >= token] += 1
        return words

    def _specials(self) -> dict[str, int]:
        return {
            module.name: module.special_token_id for module in self.plan.modules if module.special_token_id is not None
        }

    @staticmethod
    def _cut(words: torch.Tensor, num_cuts: int, generator: torch.Generator) -> list[torch.Tensor]:
        places = torch.randint(0, len(words) + 1, (num_cuts,), generator=generator).sort().values.tolist()
        return list(torch.tensor_split(words, places))

    def _text(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Language's tensors. Labels are the next tokens; padding and places of other modules' outputs do not count."""
        labels = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=PADDING)
        mask = labels != PADDING
        for token in self._specials().values():
            mask &= labels != token
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        return {INPUT_IDS: ids, LABELS: labels, LOSS_MASK: mask.float(), POSITION_IDS: positions.contiguous()}


def tokens_per_item(module: ModulePlan) -> int:
    """The number of tokens that the encoder makes of one image or clip."""
    return bridges.tokens_per_item(model_of(module)) or 1


def item_shape(module: ModulePlan) -> tuple[int, ...]:
    """The shape of one image or clip: (channels, height, width), or (mel bins, frames)."""
    model = model_of(module)
    if model.family == "audio":
        return (model.num_mel_bins or 1, model.max_positions or 1)
    return (3, model.image_size or 1, model.image_size or 1)
