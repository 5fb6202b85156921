"""How many tokens a module works on: sequences, their length, and what it hands on, in tokens and bytes."""

from __future__ import annotations

from math import ceil

import attrs

from ...base.axes import Axis
from ...layout.bridges import width_of
from ...layout.ir import ModulePlan
from ...plan import Plan
from .parameters import parameter_bytes


@attrs.frozen(kw_only=True)
class Tokens:
    """One microbatch of one lane of a module.

    Attributes:
        sequences: attended apart from one another; at least the samples, more where a sample has several images or
            clips, begun ones included.
        length: tokens of each, the class token included.
        handed_on: tokens per sample that leave the module.
        cp: ranks that share each sequence.
    """

    sequences: float
    length: int
    handed_on: int
    cp: int

    @property
    def per_rank(self) -> float:
        return self.sequences * self.length / self.cp


def tokens_of(plan: Plan, module: ModulePlan) -> Tokens:
    """The tokens of a module. Where tokens_per_sample varies, one image or one full spectrogram a sample is assumed."""
    samples = plan.batch.samples_per_lane[module.name]
    cp = module.grid.size_of(Axis.CP)
    model = module.model
    if module.is_language or model is None or model.family == "gpt":
        length = plan.batch_sizes.seq_length if module.is_language else module.output.tokens_per_sample
        length = length or plan.batch_sizes.seq_length
        return Tokens(sequences=samples, length=length, handed_on=length, cp=cp)
    if model.family == "vit":
        whole = ((model.image_size or 1) // (model.patch_size or 1)) ** 2
        length = whole + 1
    else:
        whole = length = max(1, (model.max_positions or 2) // 2)
    handed_on = module.output.tokens_per_sample or whole
    return Tokens(sequences=samples * ceil(handed_on / whole), length=length, handed_on=handed_on, cp=cp)


def edge_bytes(plan: Plan, source: ModulePlan, destination: ModulePlan) -> int:
    """Bytes of one sample's tensor on an edge; 0 where no model says how wide it is."""
    return parameter_bytes(plan) * tokens_of(plan, source).handed_on * (width_of(source, destination) or 0)
