"""megatron-core's multi-module optimizer, built so that all ranks take part in its gathers and agree on each update.

`get_mimo_optimizer` builds one optimizer per module of the rank, and each build gathers the keys of parameter groups
over the *world*, twice (dense and expert parameters; megatron/core/optimizer/__init__.py, 0.19). A rank with fewer
modules than the others would leave their gathers unanswered: a hang whenever two encoders share ranks. Here such a
rank answers with no keys.

`MimoOptimizer` takes the largest norm over the world, and a maximum forgets a NaN. In fp32 and bf16 nothing else looks
for one, so a rank's broken gradients would go into its weights unnoticed.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.models.mimo.optimizer import MimoOptimizer, get_mimo_optimizer
from megatron.core.optimizer.optimizer_config import OptimizerConfig

from planner import Plan

from ..groups.groups import ProcessGroups

_GATHERS_PER_MODULE = 2


def build_optimizer(model: MimoModel, groups: ProcessGroups, config: OptimizerConfig) -> MimoOptimizer:
    """The optimizer of this rank's modules. Collective over the world."""
    made = get_mimo_optimizer(model, config)
    missing = most_modules_on_a_rank(groups.plan) - len(groups.view.role.modules)
    for _ in range(_GATHERS_PER_MODULE * missing):
        answers: list[list[object]] = [[]] * groups.plan.world_size
        dist.all_gather_object(answers, [])
    return PlannedOptimizer(made.module_infos, made.config)


class PlannedOptimizer(MimoOptimizer):
    """A MimoOptimizer that updates no weight on any rank if the gradients of any rank are not finite."""

    _norms: dict[str, float] | None = None

    @torch.no_grad()
    def prepare_grads(self) -> bool:
        """Whether this rank's gradients are not finite. `step` asks this first, and all ranks agree on the answer."""
        found = super().prepare_grads()
        self._norms = self._module_norms()  # kept, because a norm reads all gradients
        return found or not all(map(math.isfinite, self._norms.values()))

    @torch.no_grad()
    def get_grad_norm(self) -> float:
        """The gradient norm over all modules of the world; each module counts once."""
        norms = self._norms if self._norms is not None else self._module_norms()
        self._norms = None
        squares = torch.tensor([norms.get(name, 0.0) ** 2 for name in sorted(self.module_infos)], device="cuda")
        dist.all_reduce(squares, op=dist.ReduceOp.MAX)
        return float(squares.sum().sqrt().item())

    def _module_norms(self) -> dict[str, float]:
        """The gradient norms of this rank's modules. Collective over the groups of each."""
        active = {name: info.optimizer for name, info in self.module_infos.items() if info.is_active}
        return {name: float(made.get_grad_norm() or 0.0) for name, made in active.items() if made is not None}


def most_modules_on_a_rank(plan: Plan) -> int:
    """The largest number of modules that share a rank. Some module starts at such a rank, so only those are tried."""
    return max(sum(module.grid.rank_offset in other.grid for other in plan.modules) for module in plan.modules)


def optimizer_config(*, optimizer: str, lr: float, dtype: torch.dtype, distributed_optimizer: bool) -> OptimizerConfig:
    """Plain SGD or Adam: no momentum in SGD, no weight decay, no clipping, a constant learning rate."""
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
