"""Plan -> process groups: each rank creates only its own, walking the plan's one creation order.

The plan decides which groups share a communicator (planner/layout/communicators.py). All groups in which the rank is
alone share one process group, over which nothing is ever sent.

Groups can be created by their members alone because all members compute the same name (group_names.py). With gloo all
groups of a rank connect at once (gloo.py). With NCCL, which has not been run, a group connects in its first operation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed import distributed_c10d

from planner import Direction, Group, GroupKind, Plan

from ..start import device
from ..watch import progress
from .creation_log import CreationLog, backward_place, creations
from .gloo import connect_all, handing_over
from .group_names import GroupNames, named, open_alone

_SENDING = (GroupKind.BRIDGE_P2P, GroupKind.BRIDGE_GATHER)


@attrs.frozen
class StartUp:
    """What it took to create the groups of this rank.

    Attributes:
        num_groups: groups of the plan that the rank is in.
        num_communicators: process groups that were created for them, without the one in which the rank is alone, since
            that one connects nothing.
        seconds: time that it took.
    """

    num_groups: int
    num_communicators: int
    seconds: float


class ProcessGroups:
    """The process groups of one rank, by owner and kind. Nothing is created after construction.

    Attributes:
        has_backward_groups: whether a bridge's gradients have a communicator of their own, beside that of its
            activations. They have with NCCL, which runs the operations of one communicator in order, while the two
            ends of a bridge issue theirs in different orders.
        log: what was to be created, in order; compare it with the plan by `creation_log.explain`.
        start_up: what it took to create the groups.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int,
        timeout: timedelta | None = None,
        *,
        has_backward_groups: bool | None = None,
        log: CreationLog | None = None,
    ) -> None:
        """Create the rank's process groups. Collective over the members of each group.

        Args:
            timeout: how long an operation of a group may take; None for torch's default.
            has_backward_groups: see the class; None to decide by the backend.
            log: where all creations are noted before the first begins, for whoever reads it meanwhile; None for one of
                its own.

        Raises:
            UnsupportedError: this torch would give the members of a group different names; raised on every rank alike.
        """
        started = time.perf_counter()
        self.plan = plan
        self.view = plan.view(rank)
        self._timeout = None if timeout is None else device.patience(timeout)
        self.has_backward_groups = device.is_nccl() if has_backward_groups is None else has_backward_groups
        self.log = log or CreationLog()
        openers = plan.communicators(self.view)
        self._create_all(openers)
        self._opened = tuple(
            (group, self._created.get(opener, self._alone))
            for group, opener in zip(self.view.groups, openers, strict=True)
        )
        self._backward = {
            group.owner: self._created[place]
            for group in self.view.groups
            if (place := backward_place(plan, group)) in self._created
        }
        if self.has_backward_groups:
            self._connect()
        self._forward = [opened for place, opened in self._created.items() if place < plan.num_groups]
        self.start_up = StartUp(len(self._opened), len(self._forward), time.perf_counter() - started)

    @property
    def rank(self) -> int:
        return self.view.rank

    def get(self, owner: str, kind: GroupKind | str) -> dist.ProcessGroup | None:
        """The rank's first process group of a kind; None if the plan gives it none.

        Args:
            owner: name of a module or of an edge.
        """
        matching = (opened for group, opened in self._opened if (group.owner, group.kind) == (owner, kind))
        return next(matching, None)

    @property
    def num_opened(self) -> int:
        """Communicators of which this rank is the first member: summed over the world, each of them counts once."""
        return sum(opened.rank() == 0 for opened in self._forward)

    def with_peer(self, owner: str, peer: int, direction: Direction) -> dist.ProcessGroup:
        """The process group in which this rank and `peer` send to one another over the edge `owner`.

        It is the first of the edge's groups that holds the peer. Both ends of a message find the same group, since the
        groups that they have in common come in the same order on both.

        Raises:
            KeyError: the plan gives this rank no such group.
        """
        for group, opened in self._opened:
            if group.owner == owner and group.kind in _SENDING and peer in group.ranks:
                return self._backward.get(owner, opened) if direction is Direction.BACKWARD else opened
        raise KeyError(f"the plan gives rank {self.rank} no group of {owner} with rank {peer}")

    def __iter__(self) -> Iterator[tuple[Group, dist.ProcessGroup]]:
        """The rank's groups with their process groups, in creation order."""
        return iter(self._opened)

    def _connect(self) -> None:
        """Connect every group of a bridge, in the plan's order.

        NCCL connects a group in its first operation, in which all members must then take part; the first transfers of
        a bridge may be between only some of them.
        """
        opened = [opened for group, opened in self._opened if group.kind.is_bridge]
        for process_group in (*opened, *self._backward.values()):
            dist.all_reduce(torch.zeros(1, device=device.current()), group=process_group)

    def _create_all(self, openers: tuple[int, ...]) -> None:
        """Create the group of this rank alone, then those with others, each named by its place in the plan's order.

        Args:
            openers: for each group of the view, the one that opens its communicator.
        """
        names = GroupNames(self.plan.digest)
        self.log.begin(names.prefix)
        planned = list(creations(self.plan, self.view, openers, backward=self.has_backward_groups))
        self.log.add(*planned)
        alone = names.of(2 * self.plan.num_groups, (self.rank,))
        progress.at("creating groups")
        with self._handing_over(self._connected(names.prefix, {alone: (self.rank,)}), alone):
            self._alone = open_alone(alone)  # before any group with others: they could not connect if this rank stops
        members = {names.of(each.place, each.group.ranks): each.group.ranks for each in planned}
        connected = self._connected(names.prefix, members)
        self._created = {}
        for creation in planned:
            name = names.of(creation.place, creation.group.ranks)
            with self._handing_over(connected, name):
                self._created[creation.place] = self._create(creation.group, name)

    def _connected(self, prefix: str, members: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """gloo's backends of groups, by name; none with another backend."""
        if dist.get_backend() != "gloo":
            return {}
        store = PrefixStore(f"{prefix}/addresses", distributed_c10d._get_default_store())
        return connect_all(members, self.rank, store, self._timeout or distributed_c10d.default_pg_timeout)

    @staticmethod
    def _handing_over(connected: Mapping[str, Any], name: str) -> AbstractContextManager[None]:
        """While active, the group that torch makes next has the backend of this name, if there is one."""
        return handing_over(connected[name]) if connected else nullcontext()

    def _create(self, group: Group, name: str) -> dist.ProcessGroup:
        """A process group of this name."""
        progress.at("creating groups", group=f"{group.owner}:{group.kind}:{group.index}")
        with named(name):
            created = dist.new_group(
                list(group.ranks),
                timeout=self._timeout,
                use_local_synchronization=True,
                group_desc=f"{group.owner}:{group.kind}:{group.index}",
            )
        assert isinstance(created, dist.ProcessGroup), "the view holds only groups that this rank is in"
        return created
