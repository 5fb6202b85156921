"""What megatron-core's optimizers cannot do, and what no run would change."""

from __future__ import annotations

from ..base import codes
from ..plan import Plan
from ..spec.sections import Training
from .rule import Reasons


def training_limits(training: Training) -> Reasons:
    """The reasons why no plan trains with these settings."""
    if training.dtype == "fp16":
        rule = (
            "dtype is bf16 or fp32, got fp16: loss scaling over several modules is not right, since each module's "
            "optimizer has a scale of its own, but the loss is scaled by the first's (Megatron-Bridge #5591)"
        )
        yield codes.FP16, ("training", "dtype"), rule, "use bf16"
    if training.optimizer == "sgd" and training.distributed_optimizer:
        rule = "distributed_optimizer shards the state of adam only, got optimizer = sgd"
        at = ("training", "distributed_optimizer")
        yield codes.SHARDED_SGD, at, rule, "set distributed_optimizer: false, or optimizer: adam"


def frozen_limits(plan: Plan) -> Reasons:
    """A plan that trains nothing (ms-swift #7318: such a run passes, with a gradient norm of 0)."""
    names = [module.name for module in plan.modules]
    if all(module.freeze.all for module in plan.modules):
        rule = f"some module must train; {', '.join(names)} {'is' if len(names) == 1 else 'are'} frozen"
        remedy = "remove `freeze` from a module, or write `freeze: {encoder: true}` to train an encoder's projection"
        yield codes.NOTHING_TRAINS, ("modules", names[0], "freeze"), rule, remedy
