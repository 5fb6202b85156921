"""One convention for all gradients: a sum over tokens, divided once by the number of tokens of the global batch.

megatron-core finalizes each module over its own groups (data-parallel sums, norms under sequence parallelism, tied
embeddings), told nothing of tokens. Then every shard of every module is scaled by the same number, counted once over
the world. A module scaled by its own count, or by its own number of lanes, would train at another rate than the rest.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import finalize_model_grads

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, RankView

from .ddp import modules_of
from .grids import collection_of
from .groups import ProcessGroups


def counts_tokens(view: RankView) -> bool:
    """Whether the rank's tokens count: one rank of each lane of language's last stage, and each part of a sequence."""
    if not view.role.is_last_stage(MIMO_LANGUAGE_MODULE_KEY):
        return False
    return view.coords[MIMO_LANGUAGE_MODULE_KEY][Axis.TP] == 0


class Finalizer:
    """What the schedule calls after the last microbatch. Keeps the step's token count and number."""

    def __init__(self, groups: ProcessGroups, device: torch.device) -> None:
        self._groups, self._device = groups, device
        self.num_tokens = 0

    def __call__(
        self,
        model: list[Any],
        num_tokens: torch.Tensor | None = None,
        pg_collection: Any = None,  # noqa: ARG002  the plan's groups decide
        force_all_reduce: bool = False,
    ) -> None:
        """Reduce and scale the gradients of every module of this rank."""
        for name, module in modules_of(model[0]):
            collection = collection_of(name, self._groups)
            finalize_model_grads([module], None, pg_collection=collection, force_all_reduce=force_all_reduce)
        self.num_tokens = self._count(num_tokens)
        for _, module in modules_of(model[0]):
            module.scale_gradients(1.0 / max(1, self.num_tokens))

    def _count(self, num_tokens: torch.Tensor | None) -> int:
        """Tokens of the global batch: the only number that all ranks must share in a step."""
        counted = num_tokens is not None and counts_tokens(self._groups.view)
        total = torch.tensor([int(num_tokens) if counted and num_tokens is not None else 0], device=self._device)
        dist.all_reduce(total)
        return int(total.item())
