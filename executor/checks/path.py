"""Known gradients go the whole way: every reduction, the one scaling, and the count of tokens by which it divides.

A gradient that one rank doubles before it is reduced leaves all copies equal, so comparing copies cannot find it. Here
every gradient is set to a number that tells which rank it came from. The plan says what the sums over its groups are,
and so what each rank must hold after the reductions and the division (Megatron-Bridge #4066, #3197, #5555).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from megatron.core.models.mimo.model.base import MimoModel

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, GroupKind, Plan

from ..groups.groups import ProcessGroups
from ..model.model import modules_of
from ..training.gradients import counts_tokens

Finalize = Callable[[torch.Tensor], int]

_TOKENS = 3  # that every rank which counts tokens is said to have
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
_MOST = 0.45  # of a tolerance: a gradient that is counted twice, or half of it, is off by more


def path_faults(model: MimoModel, groups: ProcessGroups, finalize: Finalize) -> Iterator[str]:
    """A line for each parameter whose known gradient came out wrong, and for a wrong count. Collective over the world.

    All gradients of the model are overwritten.

    Args:
        finalize: reduces and scales the gradients; takes this rank's number of tokens, and returns the world's.
    """
    modules = dict(modules_of(model))
    for module in modules.values():
        module.zero_grad_buffer()  # also forgets that the gradients of the step before are reduced already
        _fill(module, _value(groups.rank))
        _start(module)
    mine = torch.tensor(_TOKENS if counts_tokens(groups.view) else 0, device=_device(modules))
    total = finalize(mine)
    planned = _TOKENS * _num_counting(groups.plan)
    if total != planned:
        yield f"rank {groups.rank}: {_TOKENS} tokens on each rank that counts them are {planned}, {total} were counted"
    for name, module in modules.items():
        yield from _compare(name, module, groups, planned)
        module.zero_grad_buffer()


def _value(rank: int) -> float:
    """The gradient of a rank: small, and different for ranks that are near one another."""
    return float(1 + rank % 13)


def _num_counting(plan: Plan) -> int:
    """The ranks that count tokens: one tp rank of language's last stage for each lane and cp coord."""
    grid = plan.module(MIMO_LANGUAGE_MODULE_KEY).grid
    return grid.num_lanes * grid.size_of(Axis.CP)


def _device(modules: dict[str, Any]) -> torch.device:
    return next(parameter.device for module in modules.values() for parameter in module.parameters())


def _fill(module: Any, value: float) -> None:
    for buffer in (*module.buffers, *module.expert_parallel_buffers):
        buffer.grad_data.fill_(value)


def _start(module: Any) -> None:
    """Start the reductions that a backward pass would have started: all that overlap it, but for the first step's."""
    if module.ddp_config.overlap_grad_reduce:
        for group in (*module.bucket_groups, *module.expert_parallel_bucket_groups):
            if not group.is_first_batch:
                group.start_grad_sync()


def _compare(name: str, module: Any, groups: ProcessGroups, num_tokens: int) -> Iterator[str]:
    """The gradients of one module beside the plan's sums."""
    wrong: list[str] = []
    for key, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        found = _held(module, parameter)
        planned = _sum(name, key, parameter, groups, _is_tied(key, module)) / num_tokens
        tolerance = _tolerance(found.dtype, groups, name) * planned
        if found.numel() and float((found.float() - planned).abs().max()) > tolerance:
            wrong.append(f"{key.replace('module.', '')} is {float(found.float().mean()):.6g} for {planned:.6g}")
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        yield f"rank {groups.rank}: known gradients of {name} come out wrong: {wrong[0]}{more}"


def _tolerance(dtype: torch.dtype, groups: ProcessGroups, name: str) -> float:
    """How far a sum may be from the plan's, relative to it. A ring rounds a sum once per lane."""
    grid = groups.plan.module(name).grid
    rounded = grid.num_lanes * grid.size_of(Axis.CP) * torch.finfo(dtype).eps / 2
    return max(_TOLERANCE.get(dtype, 1e-5), min(rounded, _MOST))


def _sum(name: str, key: str, parameter: Any, groups: ProcessGroups, is_tied: bool) -> float:
    """What the plan says that a parameter's gradient is summed over; over tp, as megatron-core's finalization does."""
    kind = GroupKind.DP_CP if getattr(parameter, "allreduce", True) else GroupKind.EXPT_DP

    def over_lanes(rank: int) -> float:
        return sum(map(_value, _members(groups.plan, name, kind, rank)))

    def over_tp(rank: int) -> float:
        ranks = _members(groups.plan, name, GroupKind.TP, rank)
        if getattr(parameter, "average_gradients_across_tp_domain", False):
            return sum(map(over_lanes, ranks)) / len(ranks)
        is_summed = getattr(parameter, "sequence_parallel", False) or "q_layernorm" in key or "k_layernorm" in key
        return sum(map(over_lanes, ranks)) if is_summed else over_lanes(rank)

    ranks = _members(groups.plan, name, GroupKind.EMBD, groups.rank) if is_tied else (groups.rank,)
    return sum(map(over_tp, ranks))


def _members(plan: Plan, name: str, kind: GroupKind, rank: int) -> Sequence[int]:
    """The plan's group of a kind that a rank is in."""
    return next(ranks for ranks in plan.groups(name, kind) if rank in ranks)


def _is_tied(key: str, module: Any) -> bool:
    """Whether a parameter is the embedding that the first and the last stage share."""
    inner = module
    while not hasattr(inner, "share_embeddings_and_output_weights") and hasattr(inner, "module"):
        inner = inner.module
    if not getattr(inner, "share_embeddings_and_output_weights", False):
        return False
    return key.endswith(("word_embeddings.weight", "output_layer.weight"))


def _held(module: Any, parameter: Any) -> torch.Tensor:
    """The part of a gradient that this rank has reduced: all of it, or its shard with a distributed optimizer."""
    gradient: torch.Tensor = parameter.main_grad
    if not module.ddp_config.use_distributed_optimizer:
        return gradient
    for buffer in (*module.buffers, *module.expert_parallel_buffers):
        if parameter in buffer.param_index_map:
            first, last, number = buffer.param_index_map[parameter]
            bucket = buffer.buckets[number]
            size = bucket.grad_data.numel() // buffer.data_parallel_group.size()
            start = bucket.offset + size * buffer.data_parallel_group.rank()
            low, high = max(first, start), min(last, start + size)
            return gradient.reshape(-1)[low - first : high - first] if high > low else gradient.reshape(-1)[:0]
    return gradient
