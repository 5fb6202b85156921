"""megatron-core's multi-module optimizer, built so that every rank takes part in every gather of it.

`get_mimo_optimizer` builds one optimizer per module of the rank, and each build gathers the keys of parameter groups
over the *world*, twice (dense and expert parameters; megatron/core/optimizer/__init__.py, 0.19). Ranks with fewer
modules than others would leave the gathers of the others unanswered: a hang wherever two encoders share ranks. Such a
rank answers here with no keys.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.models.mimo.optimizer import MimoOptimizer, get_mimo_optimizer
from megatron.core.optimizer.optimizer_config import OptimizerConfig

from planner import Plan

from .groups import ProcessGroups

_GATHERS_PER_MODULE = 2


def build_optimizer(model: MimoModel, groups: ProcessGroups, config: OptimizerConfig) -> MimoOptimizer:
    """The optimizer of this rank's modules; collective over the world."""
    optimizer = get_mimo_optimizer(model, config)
    missing = most_modules_on_a_rank(groups.plan) - len(groups.view.role.modules)
    for _ in range(_GATHERS_PER_MODULE * missing):
        answers: list[list[object]] = [[]] * groups.plan.world_size
        dist.all_gather_object(answers, [])
    return optimizer


def most_modules_on_a_rank(plan: Plan) -> int:
    """The largest number of modules that share a rank: some module starts there."""
    return max(sum(module.grid.rank_offset in other.grid for other in plan.modules) for module in plan.modules)


def optimizer_config(*, optimizer: str, lr: float, dtype: torch.dtype, distributed_optimizer: bool) -> OptimizerConfig:
    """Plain SGD or Adam: no momentum for SGD, no weight decay, no clipping, a constant rate."""
    return OptimizerConfig(
        optimizer=optimizer,
        lr=lr,
        min_lr=lr,
        weight_decay=0.0,
        sgd_momentum=0.0,
        clip_grad=0.0,
        bf16=dtype is torch.bfloat16,
        params_dtype=dtype,
        use_distributed_optimizer=distributed_optimizer,
    )
