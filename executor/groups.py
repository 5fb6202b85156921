"""Plan -> process groups: each rank creates only its own, walking the plan's one creation order.

Which groups share a communicator (rule, by kind; the same on every member because all members of a set of ranks
meet the same groups with that set in the same order):
- groups of one rank share one communicator: nothing is ever sent.
- groups with equal ranks share one when their kinds are in the same lane of traffic below. Two groups in one lane
  are never meant to run at the same time; on one communicator, operations run one after the other.
- kinds in no lane run between steps only (gradient norms, tied embeddings) and share with any; so do the kinds of
  experts in a module that has none, which carry nothing.
- a bridge's groups never share: its transfers are meant to overlap everything else.

Member-only creation is safe because names are: torch salts the name of a locally synchronised group with its own
counter of creations, which differs between ranks that have created different groups; here the counter is set to the
group's position in the plan before each creation, so that all members compute the same name (torch 2.6 to 2.15).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import attrs
import torch.distributed as dist
from torch.distributed import distributed_c10d

from planner import Group, GroupKind, ModulePlan, Plan

# Kinds whose traffic is meant to overlap are in different lanes.
LANES: dict[GroupKind, str] = {
    GroupKind.TP: "tensor",
    GroupKind.TP_CP: "tensor",
    GroupKind.CP: "context",  # ring attention runs beside the tensor-parallel products
    GroupKind.PP: "pipeline",
    GroupKind.DP: "gradients",
    GroupKind.DP_CP: "gradients",
    GroupKind.EP: "experts",  # dispatch of tokens overlaps the reduction of dense gradients
    GroupKind.TP_EP: "experts",
    GroupKind.EXPT_TP: "expert-tensor",
    GroupKind.EXPT_DP: "expert-gradients",
}
_EXPERT_KINDS = (GroupKind.EP, GroupKind.TP_EP, GroupKind.EXPT_TP, GroupKind.EXPT_DP)
_BRIDGE_KINDS = frozenset(kind for kind in GroupKind if kind.startswith("bridge"))


@attrs.define
class _Communicator:
    """A process group with the traffic that it already carries."""

    process_group: dist.ProcessGroup
    lane: str | None
    num_groups: int = 1


@attrs.frozen
class StartUp:
    """What creating the groups took: counts of this rank, and seconds."""

    num_groups: int
    num_communicators: int
    seconds: float


class ProcessGroups:
    """The process groups of one rank, by owner and kind. Nothing is created after construction."""

    def __init__(self, plan: Plan, rank: int, timeout: timedelta | None = None) -> None:
        started = time.perf_counter()
        self.plan = plan
        self.view = plan.view(rank)
        self._timeout = timeout
        self._without_experts = frozenset(module.name for module in plan.modules if not _has_experts(module))
        self._base = distributed_c10d._world.group_count
        self._communicators: dict[tuple[int, ...], list[_Communicator]] = {}
        self._opened = tuple((group, self._open(group)) for group in self.view.groups)
        distributed_c10d._world.group_count = self._base + plan.num_groups
        count = sum(map(len, self._communicators.values()))
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
        """Communicators of which this rank is the first member: summed over the world, each counts once."""
        return sum(len(known) for ranks, known in self._communicators.items() if ranks[0] == self.rank)

    def with_ranks(self, owner: str, ranks: tuple[int, ...]) -> dist.ProcessGroup:
        """The process group of an owner that holds exactly these ranks. Raises KeyError."""
        for group, opened in self._opened:
            if group.owner == owner and group.ranks == ranks:
                return opened
        raise KeyError(f"the plan gives rank {self.rank} no group {ranks} of {owner}")

    def __iter__(self) -> Iterator[tuple[Group, dist.ProcessGroup]]:
        """The rank's groups with their process groups, in creation order."""
        return iter(self._opened)

    def _open(self, group: Group) -> dist.ProcessGroup:
        """Share a communicator, or create one."""
        ranks = group.ranks
        known = self._communicators.setdefault(ranks, [])
        lane = self._lane_of(group)
        for communicator in known:
            if len(ranks) == 1 or _may_share(lane, communicator):
                communicator.lane = communicator.lane or lane
                communicator.num_groups += 1
                return communicator.process_group
        known.append(_Communicator(self._create(group, ranks), lane))
        return known[-1].process_group

    def _lane_of(self, group: Group) -> str | None:
        """The group's lane of traffic; a bridge's groups have one each, which nobody else is in."""
        if group.kind in _BRIDGE_KINDS:
            return f"{group.owner}:{group.kind}"
        if group.kind in _EXPERT_KINDS and group.owner in self._without_experts:
            return None
        return LANES.get(group.kind)

    def _create(self, group: Group, ranks: tuple[int, ...]) -> dist.ProcessGroup:
        distributed_c10d._world.group_count = self._base + group.position
        created = dist.new_group(
            list(ranks),
            timeout=self._timeout,
            use_local_synchronization=True,
            group_desc=f"{group.owner}:{group.kind}:{group.index}",
        )
        assert isinstance(created, dist.ProcessGroup), "the view holds only groups that this rank is in"
        return created


def _has_experts(module: ModulePlan) -> bool:
    """Whether a module may have experts: language, unless its model says that it has none."""
    return module.is_language and (module.model is None or module.model.num_moe_experts is not None)


def _may_share(lane: str | None, communicator: _Communicator) -> bool:
    """Whether a group of a lane may use a communicator; one that was in no lane joins the group's."""
    return lane is None or communicator.lane == lane or (communicator.lane is None and ":" not in lane)
