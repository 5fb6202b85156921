"""What megatron-core's optimizers cannot do."""

from __future__ import annotations

from ..base import codes
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
