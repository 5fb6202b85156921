"""From grids and bridges to families of groups, in the one global creation order.

The order is decided here and nowhere else: modules in plan order, each with its kinds in the order of
`GroupKind`, then edges in topology order, each with its bridge kinds. Within a kind, groups come in enumeration
order. Every rank walks this order, so no two ranks ever create two groups in opposite orders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from ..base.axes import Axis
from ..base.frozen import frozen
from .bridges import Edge
from .coords import Box, Digit, Partition, Translates
from .ir import Group, GroupKind, ModulePlan, RankSets

# The axes that vary inside a group of each kind, in creation order; first the dense view, then the expert view.
DENSE_KINDS: dict[GroupKind, tuple[Axis, ...]] = {
    GroupKind.TP: (Axis.TP,),
    GroupKind.CP: (Axis.CP,),
    GroupKind.PP: (Axis.PP,),
    GroupKind.DP: (Axis.DP,),
    GroupKind.DP_CP: (Axis.DP, Axis.CP),
    GroupKind.TP_CP: (Axis.TP, Axis.CP),
    GroupKind.TP_DP_CP: (Axis.TP, Axis.DP, Axis.CP),
    GroupKind.MP: (Axis.TP, Axis.PP),
    GroupKind.INTRA_DIST_OPT: (Axis.TP, Axis.CP, Axis.DP, Axis.PP),
}
EXPERT_KINDS: dict[GroupKind, tuple[Axis, ...]] = {
    GroupKind.EP: (Axis.EP,),
    GroupKind.EXPT_TP: (Axis.EXPT_TP,),
    GroupKind.EXPT_DP: (Axis.EXPT_DP,),
    GroupKind.TP_EP: (Axis.EXPT_TP, Axis.EP),
    GroupKind.TP_EP_PP: (Axis.EXPT_TP, Axis.EP, Axis.PP),
}


@frozen
class StageEnds:
    """The embedding groups: of every pp group, its first stage, and its last stage too if `with_last`.

    There is one for every pp group, whatever rank asks. If each rank derived them from its own pp group, replicas
    would cross-talk (Megatron-Bridge #4985).
    """

    pipelines: Partition
    with_last: bool

    @cached_property
    def _dims(self) -> tuple[tuple[int, int], ...]:
        last = self.pipelines.view.num_stages - 1
        return ((2, last * self.pipelines.view.period),) if self.with_last and last else ()

    def __len__(self) -> int:
        return len(self.pipelines)

    def boxes(self, index: int) -> Sequence[Box]:
        return (Box(self.pipelines.boxes(index)[0].start, self._dims),)

    def translates(self) -> Translates | None:
        pipelines = self.pipelines.translates()
        return pipelines and (self._dims, pipelines[1])

    def indices(self, rank: int) -> tuple[int, ...]:
        _, stage = self.pipelines.view.locate(rank)
        held = stage == 0 or (self.with_last and stage == self.pipelines.view.num_stages - 1)
        return self.pipelines.indices(rank) if held else ()


@frozen
class Family:
    """All groups of one kind and owner. `base` is the first group's index in the creation order."""

    owner: str
    kind: GroupKind
    sets: RankSets
    base: int

    def __len__(self) -> int:
        return len(self.sets)

    def group(self, index: int) -> Group:
        """One group of the family."""
        return Group(self.owner, self.kind, index, self.base + index, self.sets.boxes(index))

    def __iter__(self) -> Iterator[Group]:
        return (self.group(index) for index in range(len(self)))

    def groups_of(self, rank: int) -> list[Group]:
        """The family's groups that hold a rank of the owner's modules."""
        return [self.group(index) for index in self.sets.indices(rank)]


_Row = tuple[GroupKind, int, tuple[int, ...], tuple[int, ...], tuple[Digit, ...]]


@frozen
class ModuleFamilies:
    """One module's families, prepared so that a rank's groups are found quickly: views must be cheap.

    Attributes:
        owner: the module.
        dense, expert: rows (kind, base, weights, shares, dims), one for each family whose index and lowest rank are
            linear in the coords of that view (`Partition.linear`).
        others: the families that must be asked one by one.
    """

    owner: str
    dense: tuple[_Row, ...]
    expert: tuple[_Row, ...]
    others: tuple[Family, ...]

    @classmethod
    def of(cls, owner: str, found: Iterable[Family]) -> ModuleFamilies:
        """Prepare the families of a module."""
        rows: dict[bool, list[_Row]] = {True: [], False: []}
        others = []
        expert_kinds = set(EXPERT_KINDS)
        for family in found:
            sets = family.sets
            if isinstance(sets, Partition) and sets.linear is not None:
                row = (family.kind, family.base, *sets.linear, sets.boxes(0)[0].dims)
                rows[family.kind in expert_kinds].append(row)
            else:
                others.append(family)
        return cls(owner, tuple(rows[False]), tuple(rows[True]), tuple(others))

    def groups_of(self, rank: int, dense: tuple[int, ...], expert: tuple[int, ...]) -> list[Group]:
        """The module's groups that hold the rank with these coords of the two views, in creation order."""
        found = []
        owner, alone = self.owner, (Box(rank),)
        for rows, (c0, c1, c2, c3) in ((self.dense, dense), (self.expert, expert)):
            for kind, base, (w0, w1, w2, w3), (s0, s1, s2, s3), dims in rows:
                index = c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
                boxes = (Box(rank - c0 * s0 - c1 * s1 - c2 * s2 - c3 * s3, dims),) if dims else alone
                found.append(Group(owner, kind, index, base + index, boxes))
        for family in self.others:
            found += family.groups_of(rank)
        return found


def module_sets(module: ModulePlan) -> Iterator[tuple[GroupKind, RankSets]]:
    """Every kind of group of one module, in creation order."""
    for kind, axes in DENSE_KINDS.items():
        yield kind, Partition(module.grid.dense, axes)
    for kind, axes in EXPERT_KINDS.items():
        yield kind, Partition(module.grid.expert, axes)
    if module.is_language:
        pipelines = Partition(module.grid.dense, (Axis.PP,))
        yield GroupKind.EMBD, StageEnds(pipelines, with_last=True)
        yield GroupKind.POS_EMBD, StageEnds(pipelines, with_last=False)


def families(modules: Iterable[ModulePlan], edges: Iterable[Edge]) -> tuple[Family, ...]:
    """Every family of groups of a plan, in creation order."""
    found: list[Family] = []
    base = 0
    owned = [(module.name, module_sets(module)) for module in modules]
    owned += [(edge.name, edge.group_sets()) for edge in edges]
    for owner, kinds in owned:
        for kind, sets in kinds:
            found.append(Family(owner, kind, sets, base))
            base += len(sets)
    return tuple(found)
