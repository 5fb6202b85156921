"""Proof that what was created is what the plan says, before anything is trained.

Groups: every member contributes (1, rank, rank^2); a group whose number, sum and sum of squares of members equal the
plan's has the plan's members. Plain sums would not do: {0, 3} and {1, 2} both give 3 (Megatron-Bridge #4985 shipped
groups that cross-talked silently). Bridges: check_bridges.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import torch
import torch.distributed as dist

from .check_bridges import BridgeTime, check_bridge
from .groups import ProcessGroups


@attrs.frozen
class Findings:
    """What one rank found. `faults` is empty where all is as planned."""

    faults: tuple[str, ...]
    bridges: tuple[BridgeTime, ...]


def check(groups: ProcessGroups, device: torch.device) -> Findings:
    """Try every group and every bridge; collective over the world."""
    faults = list(check_groups(groups, device))
    times = []
    for bridge in groups.plan.bridges:
        found, measured = check_bridge(bridge, groups, device)
        faults += found
        times.append(measured)
    return Findings(tuple(faults), tuple(times))


def check_groups(groups: ProcessGroups, device: torch.device) -> Iterator[str]:
    """Reduce the members' numbers over every group of this rank, in creation order."""
    rank = groups.rank
    for group, process_group in groups:
        numbers = torch.tensor([1, rank, rank * rank], dtype=torch.int64, device=device)
        dist.all_reduce(numbers, group=process_group)
        planned = [len(group.ranks), sum(group.ranks), sum(member * member for member in group.ranks)]
        if numbers.tolist() != planned:
            yield (
                f"rank {rank}: {group.kind} group {group.index} of {group.owner} is {group.ranks} in the plan, with "
                f"(count, sum, squares) = {planned}, but reduces to {numbers.tolist()}"
            )
