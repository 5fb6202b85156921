"""megatron-core's grids, answered from the plan's groups. Asking a grid for a group never creates one.

MimoModel, the optimizer and megatron-core's own bridges ask a HyperCommGrid for groups by their dims, either in the
base view or in the view named "expert". Every combination that they ask for is a kind of group in the plan.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch.distributed as dist
from megatron.core.hyper_comm_grid import HyperCommGrid, _RankViewSpec
from megatron.core.process_groups_config import ProcessGroupCollection

from planner import Axis, GroupKind, ModulePlan, Plan
from planner.layout.groups import DENSE_KINDS, EXPERT_KINDS
from planner.layout.ir import Grid

from .groups import ProcessGroups

_BASE, _EXPERT = "base", "expert"
_HIGH = "_high"  # suffix of the second dim of an expert axis that the stride of pp cuts in two
KINDS: dict[tuple[str, frozenset[str]], GroupKind] = {
    (view, frozenset(axis.value for axis in axes)): kind
    for view, kinds in ((_BASE, DENSE_KINDS), (_EXPERT, EXPERT_KINDS))
    for kind, axes in kinds.items()
} | {(_EXPERT, frozenset({Axis.PP.value})): GroupKind.PP}
"""megatron-core's (view, dims) -> the plan's kind of group; the expert view has pp groups of its own name."""


class PlannedGrid(HyperCommGrid):
    """The grid of one module.

    Attributes:
        shape, dim_names: sizes and names of the module's axes in its own order, fastest first.
    """

    def __init__(self, module: ModulePlan, groups: ProcessGroups | None) -> None:
        """Creates nothing.

        Args:
            groups: the rank's process groups; None if the grid will only be asked for ranks.
        """
        # super().__init__ is not called: it reads the world size from the environment, and the plan knows it.
        grid = module.grid
        self.module = module
        self.rank_offset, self.size = grid.rank_offset, grid.size
        self.shape, self.dim_names = list(grid.sizes), [axis.value for axis in grid.order]
        self.backend = None
        self._views = {_BASE: _RankViewSpec(_BASE, self.shape, self.dim_names, [])}
        if (dims := expert_dims(grid)) is not None:
            names, sizes = zip(*dims, strict=True)
            self._views[_EXPERT] = _RankViewSpec(_EXPERT, list(sizes), list(names), ["pp"])
        self._pgs: dict[Any, Any] = {}
        self._groups = groups

    def get_pg(self, dims: str | list[str], *, view: str | None = None) -> dist.ProcessGroup:
        """The rank's process group over `dims`.

        Raises:
            KeyError: the plan has no such kind of group, or the rank has no group of that kind.
        """
        kind = self._kind(dims, view)
        group = self._groups.get(self.module.name, kind) if self._groups else None
        if group is None:
            raise KeyError(f"this rank has no {kind} group of {self.module.name}")
        return group

    def get_rank_enum(self, dims: str | list[str], *, view: str | None = None) -> list[list[int]]:
        """The global ranks of every group over `dims`, in the plan's enumeration order.

        Raises:
            KeyError: the plan has no such kind of group.
        """
        if self._groups is None:
            found: list[list[int]] = super().get_rank_enum(dims, view=view)
            return found
        return [list(ranks) for ranks in self._groups.plan.groups(self.module.name, self._kind(dims, view))]

    def create_pg(self, dims: str | list[str], **_: Any) -> dist.ProcessGroup:
        """Refused with a RuntimeError: the plan's groups are created once, all together."""
        raise RuntimeError(f"groups over {dims} come from the plan; ask get_pg")

    def destroy(self) -> None:
        """Does nothing: the groups belong to ProcessGroups, and end with the default group."""

    @staticmethod
    def _kind(dims: str | list[str], view: str | None) -> GroupKind:
        key = (view or _BASE, frozenset([dims] if isinstance(dims, str) else dims))
        if key not in KINDS:
            raise KeyError(f"the plan has no kind for the dims {sorted(key[1])} of the view {key[0]!r}")
        return KINDS[key]


def expert_dims(grid: Grid) -> list[tuple[str, int]] | None:
    """Names and sizes of the expert view's dims, fastest first; None if no box of dims can express the view.

    Every rank keeps its pp coord, so pp keeps its stride. If that stride falls inside an expert axis and cuts it
    evenly, the axis becomes two dims, one on either side of pp; the name of the second ends in `_high`.
    """
    stride, below = prod(grid.sizes[: grid.order.index(Axis.PP)]), 1
    dims: list[tuple[str, int]] = []
    stages = (Axis.PP.value, grid.size_of(Axis.PP))
    for axis in (Axis.EXPT_TP, Axis.EP, Axis.EXPT_DP):
        size = grid.size_of(axis)
        if below <= stride < below * size:
            low, high = stride // below, below * size // stride
            if stride % below or below * size % stride:
                return None
            dims += (
                [stages, (axis.value, size)] if low == 1 else [(axis.value, low), stages, (axis.value + _HIGH, high)]
            )
        else:
            dims.append((axis.value, size))
        below *= size
    return dims if stages in dims else [*dims, stages]


def rank_enum(grid: PlannedGrid, dims: frozenset[str], view: str) -> list[tuple[int, ...]] | None:
    """The groups over `dims` as megatron-core itself enumerates them; None if it cannot express the view."""
    if view not in grid._views:
        return None
    names = [name for name in grid._views[view].dim_names if name.removesuffix(_HIGH) in dims]
    return [tuple(ranks) for ranks in HyperCommGrid.get_rank_enum(grid, names, view=view)]


def build_grids(plan: Plan, groups: ProcessGroups | None) -> dict[str, PlannedGrid]:
    """The grid of every module in plan order, including the modules that the rank does not hold."""
    return {module.name: PlannedGrid(module, groups) for module in plan.modules}


def collection_of(owner: str, groups: ProcessGroups) -> ProcessGroupCollection:
    """The rank's groups of one module under megatron-core's names; embedding groups that it does not have are None."""
    found = ProcessGroupCollection()
    found.embd = found.pos_embd = None
    for group, process_group in groups:
        if group.owner == owner:
            setattr(found, group.kind.value, process_group)
    return found
