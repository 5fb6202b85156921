"""Plan -> process groups: each rank creates only its own, walking the plan's one creation order.

Which groups share a communicator is the plan's decision (planner/sharing.py). A rank's groups of one rank, on which
nothing is ever sent, share one process group.

Member-only creation is safe because names are: torch salts the name of a locally synchronised group with its own
counter of creations, which differs between ranks that have created different groups; here the counter is set to the
group's position in the plan before each creation, so that all members compute the same name. That is private
to torch, and tried before the first group (naming.py); with NCCL it has not been run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta

import attrs
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from planner import Direction, Group, GroupKind, Plan

from ..start import device
from .gloo import one_device
from .group_names import check_naming

_BRIDGES = frozenset(kind for kind in GroupKind if kind.startswith("bridge"))
_SENDING = (GroupKind.BRIDGE_P2P, GroupKind.BRIDGE_GATHER)


@attrs.frozen
class StartUp:
    """What creating the groups took: counts of this rank, and seconds.

    `num_communicators` leaves out the one that groups of one rank share: it connects nothing.
    """

    num_groups: int
    num_communicators: int
    seconds: float


class ProcessGroups:
    """The process groups of one rank, by owner and kind. Nothing is created after construction.

    Attributes:
        are_separate: whether a bridge's gradients have a communicator beside that of its activations. NCCL runs the
            operations of one in their order, and each end of a bridge issues them in another.
    """

    def __init__(
        self, plan: Plan, rank: int, timeout: timedelta | None = None, *, are_separate: bool | None = None
    ) -> None:
        """Raises UnsupportedError, on every rank alike, where this torch gives members different names."""
        started = time.perf_counter()
        check_naming()
        self.plan = plan
        self.view = plan.view(rank)
        self._timeout = timeout
        self.are_separate = dist.get_backend() == "nccl" if are_separate is None else are_separate
        self._base = distributed_c10d._world.group_count
        self._created: dict[int, dist.ProcessGroup] = {}
        with one_device() if dist.get_backend() == "gloo" else nullcontext():
            self._opened = tuple(zip(self.view.groups, self._open_all(), strict=True))
            self._back = dict(self._open_ways_back()) if self.are_separate else {}
        distributed_c10d._world.group_count = self._base + 2 * plan.num_groups
        if self.are_separate:
            self._connect()
        count = sum(opened.size() > 1 for opened in self._created.values())
        self.start_up = StartUp(len(self._opened), count, time.perf_counter() - started)

    @property
    def rank(self) -> int:
        return self.view.rank

    def get(self, owner: str, kind: GroupKind | str) -> dist.ProcessGroup | None:
        """The rank's (first) process group of a kind; None where the plan gives it none."""
        matching = (opened for group, opened in self._opened if (group.owner, group.kind) == (owner, kind))
        return next(matching, None)

    @property
    def num_opened(self) -> int:
        """Communicators that this rank opens for its members: summed over the world, each counts once."""
        return sum(opened.size() > 1 and opened.rank() == 0 for opened in self._created.values())

    def with_peer(self, owner: str, peer: int, direction: Direction) -> dist.ProcessGroup:
        """The group in which an edge's ranks send to one another: the first of them that holds the peer.

        Both ends of a message find the same one, since they share the same groups in the same order.
        """
        for group, opened in self._opened:
            if group.owner == owner and group.kind in _SENDING and peer in group.ranks:
                return self._back.get(owner, opened) if direction is Direction.BACKWARD else opened
        raise KeyError(f"the plan gives rank {self.rank} no group of {owner} with rank {peer}")

    def __iter__(self) -> Iterator[tuple[Group, dist.ProcessGroup]]:
        """The rank's groups with their process groups, in creation order."""
        return iter(self._opened)

    def _open_all(self) -> Iterator[dist.ProcessGroup]:
        """The process group of each of the rank's groups, created where a group is the first of its communicator."""
        for group, opener in zip(self.view.groups, self.plan.communicators(self.view), strict=True):
            if group.position == opener:
                self._created[opener] = self._create(group, group.position)
            yield self._created[opener]

    def _open_ways_back(self) -> Iterator[tuple[str, dist.ProcessGroup]]:
        """A second communicator for every group that carries transfers of a pipeline, after all others."""
        for group in self.view.groups:
            if group.kind is GroupKind.BRIDGE_P2P:
                yield group.owner, self._create(group, self.plan.num_groups + group.position)

    def _connect(self) -> None:
        """Connect every group of bridges, in the plan's order: NCCL connects with the first operation, in which then
        all members must take part, while the first transfers of a bridge may be between some of them."""
        opened = [opened for group, opened in self._opened if group.kind in _BRIDGES]
        for process_group in (*opened, *self._back.values()):
            dist.all_reduce(torch.zeros(1, device=device.current()), group=process_group)

    def _create(self, group: Group, position: int) -> dist.ProcessGroup:
        distributed_c10d._world.group_count = self._base + position
        created = dist.new_group(
            list(group.ranks),
            timeout=self._timeout,
            use_local_synchronization=True,
            group_desc=f"{group.owner}:{group.kind}:{group.index}",
        )
        assert isinstance(created, dist.ProcessGroup), "the view holds only groups that this rank is in"
        return created
