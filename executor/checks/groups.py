"""Proof that what was created is what the plan says, before anything is trained.

Groups: every member tells its rank to the member after it, and must hear the planned one (Megatron-Bridge #4985 shipped
groups that silently cross-talked). Each hears one rank only; together the members prove all places of the group, with
as few messages as there are members. Bridges are proved in bridges.py.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    """Try every communicator of this rank, and yield a line per group that is not the plan's.

    Groups that share a communicator have the same members, so one answer serves all of them. All communicators are
    tried at once, since most of the time is spent on waiting for other members.
    """
    progress.at("checking groups")
    opened = list({process_group: None for _, process_group in groups if process_group.size() > 1})
    said, *heard = torch.tensor([groups.rank, *[-1] * len(opened)], device=device).unbind()
    works = [work for each, number in zip(opened, heard, strict=True) for work in _ask(each, said, number)]
    for work in works:
        work.wait()
    answers = dict(zip(opened, map(int, heard), strict=True))
    for group, process_group in groups:
        members = tuple(dist.get_process_group_ranks(process_group))
        before = members[process_group.rank() - 1]
        found = f"{members} run it" if members != group.ranks else ""
        if not found and answers.get(process_group, before) != before:
            found = f"rank {answers[process_group]} answers in the place of rank {before}"
        if found:
            name = f"{group.kind} group {group.index} of {group.owner}"
            yield f"rank {groups.rank}: {name} is {group.ranks} in the plan, but {found}"


def _ask(process_group: dist.ProcessGroup, said: torch.Tensor, heard: torch.Tensor) -> list[dist.Work]:
    """Tell `said` to the next member and hear from the one before. As a batch, else NCCL would do one after another."""
    place, size = process_group.rank(), process_group.size()
    tell = dist.P2POp(dist.isend, said, group=process_group, group_peer=(place + 1) % size)
    hear = dist.P2POp(dist.irecv, heard, group=process_group, group_peer=(place - 1) % size)
    return dist.batch_isend_irecv([tell, hear])
