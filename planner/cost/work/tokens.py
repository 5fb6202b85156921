"""How many tokens a module works on: its sequences, their length, and what it hands on, in tokens and bytes."""

from __future__ import annotations

from math import ceil

from ...base.axes import Axis
from ...base.frozen import frozen
from ...layout.bridges import bytes_per_sample, tokens_handed_on, tokens_per_item
from ...layout.ir import ModulePlan
from ...plan import Plan


@frozen(kw_only=True)
class Tokens:
    """The tokens of one microbatch of one lane of a module.

    Attributes:
        sequences: number of sequences, each attended on its own: one per sample, or one per image or clip if a sample
            has several; an incomplete last one counts as a whole one.
        length: tokens of each sequence, the class token included.
        handed_on: tokens of each sample that leave the module.
        cp: number of ranks that share each sequence.
    """

    sequences: float
    length: int
    handed_on: int
    cp: int

    @property
    def per_rank(self) -> float:
        """Tokens of one rank: those of the lane over cp."""
        return self.sequences * self.length / self.cp


def tokens_of(plan: Plan, module: ModulePlan) -> Tokens:
    """The tokens of a module. If its tokens_per_sample varies, each sample counts as one image or one full clip."""
    samples = plan.batch.samples_per_lane[module.name]
    cp = module.grid.size_of(Axis.CP)
    handed_on = tokens_handed_on(module, plan.batch_sizes.seq_length)
    if module.is_language:
        return Tokens(sequences=samples, length=plan.batch_sizes.seq_length, handed_on=handed_on, cp=cp)
    per_item = tokens_per_item(module.model)
    if per_item is None:
        return Tokens(sequences=samples, length=handed_on, handed_on=handed_on, cp=cp)
    length = per_item + (module.model is not None and module.model.family == "vit")  # vision encoders add a class token
    return Tokens(sequences=samples * ceil(handed_on / per_item), length=length, handed_on=handed_on, cp=cp)


def edge_bytes(plan: Plan, source: ModulePlan, destination: ModulePlan) -> int:
    """Bytes of one sample's tensor on an edge; 0 if no model says how wide it is."""
    return bytes_per_sample(source, destination, plan.batch_sizes.seq_length, plan.training.dtype) or 0
