"""Proof that what was created is what the plan says, before anything is trained.

Groups: every member says its rank to all members, and what is heard must be the plan's ranks in the plan's order
(Megatron-Bridge #4985 shipped groups that silently cross-talked). Bridges are proved in bridges.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import attrs
import torch
import torch.distributed as dist

from ..groups.groups import ProcessGroups
from ..watch import progress
from .bridges import BridgeTime, check_bridge


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
    """Let the members of every communicator of this rank say who they are; a line per group with other ranks.

    Groups that share a communicator have the same members, so one answer serves all of them. All communicators are
    asked at once, since most of the time is spent on waiting for other members.
    """
    rank = groups.rank
    sizes = {process_group: process_group.size() for _, process_group in groups}
    numbers = torch.full((2 * sum(sizes.values()),), rank, device=device)  # one tensor for many small groups
    parts = numbers.split_with_sizes([*sizes.values(), *sizes.values()])
    progress.at("checking groups")
    asked = [_ask(*each) for each in zip(sizes, parts[: len(sizes)], parts[len(sizes) :], strict=True)]
    for work in asked:
        if work is not None:
            work.wait()
    answers = iter(numbers.tolist())
    members = {process_group: tuple(islice(answers, size)) for process_group, size in sizes.items()}
    for group, process_group in groups:
        if members[process_group] != group.ranks:
            yield (
                f"rank {rank}: {group.kind} group {group.index} of {group.owner} is {group.ranks} in the plan, but "
                f"{members[process_group]} answer"
            )


def _ask(process_group: dist.ProcessGroup, heard: torch.Tensor, said: torch.Tensor) -> dist.Work | None:
    """Fill `heard` with the ranks of all members. None if that is no work, in a group of one.

    gloo sends to each member directly, which takes half as long as its rings. NCCL would open a connection to each
    for that, so there the ranks are gathered.
    """
    if len(said) == 1:
        return None
    if dist.get_backend(process_group) == "gloo":
        return dist.all_to_all_single(heard, said, group=process_group, async_op=True)
    return dist.all_gather_into_tensor(heard, said[:1], group=process_group, async_op=True)
