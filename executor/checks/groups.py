"""Proof that what was created is what the plan says, before anything is trained.

Groups: every member contributes (1, rank, rank^2, hash of rank), and the sums must be the plan's (Megatron-Bridge
#4985 shipped groups that silently cross-talked). The first three numbers help people, but cannot tell members apart:
(0, 3, 4, 5) and (1, 2, 3, 6) agree in all of them. The hashes can: a group of other members passes only if two sums of
hashes are equal by chance, which is one in 2^39. Bridges are proved in bridges.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import attrs
import torch
import torch.distributed as dist

from ..groups.groups import ProcessGroups
from ..watch import progress
from .bridges import BridgeTime, check_bridge

_HASH_BITS = 39  # a sum over the largest world, 2^24 ranks, fits int64


@attrs.frozen
class Findings:
    """What one rank found. `faults` is empty if all is as planned."""

    faults: tuple[str, ...]
    bridges: tuple[BridgeTime, ...]


def check(groups: ProcessGroups, device: torch.device) -> Findings:
    """Try every group and every bridge. Collective over the world."""
    faults = list(check_groups(groups, device))
    times = []
    for bridge in groups.plan.bridges:
        progress.at("checking", bridge=bridge.name)
        found, measured = check_bridge(bridge, groups, device)
        faults += found
        times.append(measured)
    return Findings(tuple(faults), tuple(times))


def check_groups(groups: ProcessGroups, device: torch.device) -> Iterator[str]:
    """Sum the members' numbers over every communicator of this rank, and yield a line per group with a wrong sum.

    Groups that share a communicator reduce over the same members, so one sum answers for all of them. All sums are
    under way at once, since most of their time is spent on waiting for other members.
    """
    rank = groups.rank
    own = numbers_of((rank,))
    sums: dict[dist.ProcessGroup, tuple[torch.Tensor, Any]] = {}
    for _, process_group in groups:
        if process_group not in sums:
            numbers = torch.tensor(own, dtype=torch.int64, device=device)
            sums[process_group] = numbers, dist.all_reduce(numbers, group=process_group, async_op=True)
    for group, process_group in groups:
        progress.at("checking", group=f"{group.owner}:{group.kind}:{group.index}")
        numbers, work = sums[process_group]
        work.wait()
        planned, found = numbers_of(group.ranks), numbers.tolist()
        if found != planned:
            alike = " of other ranks: their hashes differ" if found[:3] == planned[:3] else ""
            yield (
                f"rank {rank}: {group.kind} group {group.index} of {group.owner} is {group.ranks} in the plan, with "
                f"(count, sum, squares) = {planned[:3]}, but reduces to {found[:3]}{alike}"
            )


def numbers_of(ranks: tuple[int, ...]) -> list[int]:
    """What a group of these ranks must sum to: count, sum of ranks, of their squares and of their hashes."""
    return [len(ranks), sum(ranks), sum(rank * rank for rank in ranks), sum(map(_hash, ranks))]


def _hash(rank: int) -> int:
    digest = hashlib.sha256(rank.to_bytes(8)).digest()
    return int.from_bytes(digest[:8]) >> 64 - _HASH_BITS
