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
    opened = {each: tuple(dist.get_process_group_ranks(each)) for _, each in groups}
    told = [each for each in opened if each.size() > 1]
    numbers = torch.tensor([groups.rank, *[-1] * len(told)], device=device)
    said, *heard = torch.split(numbers, 1)
    for work in [work for each, number in zip(told, heard, strict=True) for work in _ask(each, said, number)]:
        work.wait()
    answers = dict(zip(told, numbers.tolist()[1:], strict=True))
    for group, process_group in groups:
        members = opened[process_group]
        before = members[process_group.rank() - 1]
        found = f"{members} run it" if members != group.ranks else ""
        if not found and answers.get(process_group, before) != before:
            found = f"rank {answers[process_group]} answers in the place of rank {before}"
        if found:
            name = f"{group.kind} group {group.index} of {group.owner}"
            yield f"rank {groups.rank}: {name} is {group.ranks} in the plan, but {found}"


def _ask(process_group: dist.ProcessGroup, said: torch.Tensor, heard: torch.Tensor) -> list[dist.Work]:
    """Tell `said` to the next member and hear from the one before: as a batch, else NCCL would do one after another."""
    place, size = process_group.rank(), process_group.size()
    after, before = (place + 1) % size, (place - 1) % size
    if dist.get_backend(process_group) == "gloo":  # which needs none, and takes half the time
        return [process_group.recv([heard], before, 0), process_group.send([said], after, 0)]
    tell = dist.P2POp(dist.isend, said, group=process_group, group_peer=after)
    hear = dist.P2POp(dist.irecv, heard, group=process_group, group_peer=before)
    return dist.batch_isend_irecv([tell, hear])
