"""One convention for all gradients: a sum over tokens, divided once by the number of tokens of the global batch.

megatron-core finalizes each module over its own groups (data-parallel sums, norms under sequence parallelism, tied
embeddings) and is told nothing about tokens. Then every shard of every module is scaled by the same number, counted
once over the world. A module that is scaled by its own count, or by its own number of lanes, would train at a different
rate from the rest.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import finalize_model_grads

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, RankView

from ..errors import ExecutorError
from ..groups.grids import PlannedGrid
from ..groups.infra import MimoModelInfra
from ..start import device

ModulesAndGrids = list[tuple[Any, PlannedGrid]]

_REMEDY = "return (sum of losses, num_tokens, report) from the loss function, and calculate_per_token_loss=True"


def counts_tokens(view: RankView) -> bool:
    """Whether this rank counts its tokens: one tp rank of language's last stage does, for each lane and cp coord."""
    if not view.role.is_last_stage(MIMO_LANGUAGE_MODULE_KEY):
        return False
    return view.coords[MIMO_LANGUAGE_MODULE_KEY][Axis.TP] == 0


def finalize_model_grads_multimodule(
    model: Any,  # noqa: ARG001  the schedule passes it; module_to_grid_tuple has its modules
    num_tokens: torch.Tensor | None = None,
    pg_collection: Any = None,  # noqa: ARG001  the plan's groups decide
    force_all_reduce: bool | None = False,
    *,
    infra: MimoModelInfra,
    module_to_grid_tuple: ModulesAndGrids,
) -> int:
    """Reduce every module's gradients over its own groups, then divide all by the one global token count.

    The schedule calls this after the last microbatch; bind the two keyword arguments first. Collective.

    Args:
        num_tokens: number of tokens in this rank's microbatches.
        infra: the provider's groups and grids.
        module_to_grid_tuple: this rank's modules with their grids, from `get_module_to_grid_tuple`.

    Returns:
        The number of tokens in the global batch.

    Raises:
        ExecutorError: on all ranks, if the loss function does not count its tokens.
    """
    total = _count(num_tokens, infra)
    for module, grid in module_to_grid_tuple:
        collection = infra.pg_collections[grid.module.name]
        finalize_model_grads([module], None, pg_collection=collection, force_all_reduce=bool(force_all_reduce))
    if total == 0:
        _refuse_gradients(module_to_grid_tuple)
    scale_gradients(module_to_grid_tuple, total)
    return total


def scale_gradients(module_to_grid_tuple: ModulesAndGrids, num_tokens: int) -> None:
    """Divide the gradients of every module by the global number of tokens."""
    for module, _ in module_to_grid_tuple:
        module.scale_gradients(1.0 / max(1, num_tokens))


def _count(num_tokens: torch.Tensor | None, infra: MimoModelInfra) -> int:
    """The tokens of the global batch: the only number that all ranks must share in a step."""
    counted = counts_tokens(infra.groups.view)
    mine = int(num_tokens) if counted and num_tokens is not None else 0
    total = torch.tensor([mine, counted and num_tokens is None], dtype=torch.int64, device=device.current())
    dist.all_reduce(total)
    tokens, uncounted = total.tolist()
    if uncounted:
        raise ExecutorError(
            f"num_tokens is None on {uncounted} ranks of language's last stage: gradients are sums over tokens, "
            f"divided by their number\n    fix: {_REMEDY}"
        )
    return int(tokens)


def _refuse_gradients(module_to_grid_tuple: ModulesAndGrids) -> None:
    """Raise if there are gradients but no tokens. A batch whose tokens are all masked has neither."""
    largest = torch.zeros(1, device=device.current())
    for module, _ in module_to_grid_tuple:
        for buffer in (*module.buffers, *module.expert_parallel_buffers):
            largest = torch.maximum(largest, buffer.grad_data.abs().max().float().reshape(1))
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    if float(largest.item()) > 0:
        raise ExecutorError(
            "the global batch has gradients, but num_tokens = 0: the loss function returned two values, whose loss "
            f"megatron-core averages over microbatches, or counts no tokens\n    fix: {_REMEDY}"
        )
