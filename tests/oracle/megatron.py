"""megatron-core's own classes, built for any rank of a plan in one process, without a process group.

Its grids, roles and communicators ask torch.distributed for their rank and for groups while they are constructed.
`Megatron.as_rank` answers those few calls as one rank of the plan would see them. Nothing else is replaced, so what the
classes compute is megatron-core's own.

A plan contributes only what was decided (offsets, orders, sizes, names, edges), and nothing that is derived.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from math import prod
from typing import Any

import attrs
import pytest

from planner import Axis, ModulePlan, Plan

EXPERT_VIEW = "expert"
_HIGH = "_high"  # second dim of an expert axis that the stride of pp cuts in two


@attrs.frozen
class FakeGroup:
    """A process group as one of its members sees it."""

    ranks: tuple[int, ...]
    current: int

    def rank(self) -> int:
        return self.ranks.index(self.current)

    def size(self) -> int:
        return len(self.ranks)


@attrs.frozen
class FakeDistributed:
    """The functions of torch.distributed that constructors of megatron-core call, for one rank."""

    current: int
    non_member: object

    def get_rank(self) -> int:
        return self.current

    def get_world_size(self, group: FakeGroup) -> int:
        return group.size()

    def get_group_rank(self, group: FakeGroup, global_rank: int) -> int:
        return group.ranks.index(global_rank)

    def get_global_rank(self, group: FakeGroup, group_rank: int) -> int:
        return group.ranks[group_rank]

    def barrier(self) -> None:
        pass

    def new_group(self, ranks: list[int], **_options: object) -> Any:
        assert len(set(ranks)) == len(ranks), f"repeated ranks in {ranks}"
        return FakeGroup(tuple(ranks), self.current) if self.current in ranks else self.non_member

    def new_subgroups_by_enumeration(self, ranks: list[list[int]], **_options: object) -> Any:
        """As in torch, subgroups share no rank, and a rank that is in none of them gets None."""
        listed = [rank for group in ranks for rank in group]
        assert ranks, "no subgroup"
        assert len(set(listed)) == len(listed), f"subgroups overlap: {ranks}"
        groups = [self.new_group(group) for group in ranks]
        return next((group for group in groups if isinstance(group, FakeGroup)), None), groups


_REPLACED = (
    "get_rank",
    "get_world_size",
    "get_group_rank",
    "get_global_rank",
    "barrier",
    "new_group",
    "new_subgroups_by_enumeration",
)


class Megatron:
    """The parts of megatron-core that a plan is compared with. Construction imports them, and torch."""

    def __init__(self) -> None:
        self.distributed = import_module("torch.distributed")
        self.grids = import_module("megatron.core.hyper_comm_grid")
        self.role = import_module("megatron.core.models.mimo.config.role")
        self.bridge = import_module("megatron.core.pipeline_parallel.bridge_communicator")
        self.colocated = import_module("megatron.core.models.mimo.comm.colocated_communicator")
        self.multimodule = import_module("megatron.core.pipeline_parallel.multimodule_communicator")
        self.schedules = import_module("megatron.core.pipeline_parallel.schedules")
        self.parallel_state = import_module("megatron.core.parallel_state")
        self.config = import_module("megatron.core.model_parallel_config")

    @contextmanager
    def as_rank(self, plan: Plan, rank: int = 0) -> Iterator[dict[str, Any]]:
        """Construct megatron-core's classes as `rank`; gives the plan's grids by name."""
        world = FakeDistributed(rank, self.distributed.GroupMember.NON_GROUP_MEMBER)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WORLD_SIZE", str(plan.world_size))
            for name in _REPLACED:
                patch.setattr(self.distributed, name, getattr(world, name))
            for cache in ("_broadcast_pg_cache", "_bridge_pg_cache"):  # groups of another rank
                patch.setattr(self.bridge.BridgeCommunicator, cache, {})
            yield {module.name: self.grid(module) for module in plan.modules}

    def grid(self, module: ModulePlan) -> Any:
        """The module's HyperCommGrid with its expert view and its pp group."""
        grid = module.grid
        made = self.grids.HyperCommGrid(
            list(grid.sizes), [str(axis) for axis in grid.order], rank_offset=grid.rank_offset
        )
        names, sizes = zip(*expert_dims(module), strict=True)
        # megatron-core checks here that the pp groups of both views are equal
        made.register_view(EXPERT_VIEW, list(sizes), list(names), shared_dims=[str(Axis.PP)])
        made.create_pg(str(Axis.PP))
        return made

    def dense_groups(self, grid: Any, axes: tuple[Axis, ...]) -> list[tuple[int, ...]]:
        return _tuples(grid.get_rank_enum([str(axis) for axis in axes]))

    def expert_groups(self, grid: Any, axes: tuple[Axis, ...]) -> list[tuple[int, ...]]:
        names = [name for name, _ in _expert_names(grid) if name.removesuffix(_HIGH) in axes]
        return _tuples(grid.get_rank_enum(names, view=EXPERT_VIEW))

    def role_of(self, plan: Plan, rank: int) -> Any:
        """megatron-core's RankRole of a rank."""
        with self.as_rank(plan, rank) as grids:
            modalities = [module.name for module in plan.modules if not module.is_language]
            return self.role.RankRole.build(modalities, grids)

    def rank_generator(self, module: ModulePlan) -> Any:
        """parallel_state's generator of the dense groups."""
        sizes = {axis: module.grid.sizes[i] for i, axis in enumerate(module.grid.order)}
        return self.parallel_state.RankGenerator(
            **{str(axis): size for axis, size in sizes.items()},
            ep=1,
            order="-".join(module.grid.order),
            rank_offset=module.grid.rank_offset,
        )

    def expert_rank_generator(self, module: ModulePlan) -> Any:
        """parallel_state's generator of the expert groups in its default order: pp slowest."""
        grid = module.grid
        assert grid.order[-1] is Axis.PP
        return self.parallel_state.RankGenerator(
            tp=grid.expt_tp,
            ep=grid.ep,
            dp=prod(grid.sizes[:-1]) // (grid.expt_tp * grid.ep),
            pp=grid.sizes[-1],
            cp=1,
            order="tp-cp-ep-dp-pp",
            rank_offset=grid.rank_offset,
        )

    def communicator(self, plan: Plan, grids: dict[str, Any]) -> Any:
        """The whole pipeline's communicator of the current rank."""
        return self.multimodule.MultiModulePipelineCommunicator(
            grids, outgoing(plan), self.config.ModelParallelConfig()
        )


def outgoing(plan: Plan) -> dict[str, list[str]]:
    """The DAG in megatron-core's form: every module with the modules that it feeds."""
    return {module.name: [dst for src, dst in plan.edges if src == module.name] for module in plan.modules}


def expert_dims(module: ModulePlan) -> list[tuple[str, int]]:
    """Dims of the expert view, fastest first: expt_tp, ep and expt_dp, with pp at the place that its stride gives it.

    Every rank keeps its pp coord, so pp keeps its stride, and is slowest in the default order. If the stride falls
    inside an expert axis and cuts it evenly, the axis becomes two dims, one on either side of pp.

    Raises:
        ValueError: the stride cuts an axis unevenly, which no box of dims can express.
    """
    grid = module.grid
    at = grid.order.index(Axis.PP)
    num_stages, stride = grid.sizes[at], prod(grid.sizes[:at])
    expt_dp = prod(grid.sizes) // (num_stages * grid.expt_tp * grid.ep)
    stages = (str(Axis.PP), num_stages)
    dims: list[tuple[str, int]] = []
    below = 1
    for axis, size in ((Axis.EXPT_TP, grid.expt_tp), (Axis.EP, grid.ep), (Axis.EXPT_DP, expt_dp)):
        if below == stride < below * size:
            dims += [stages, (str(axis), size)]
        elif below < stride < below * size:
            low, uneven = divmod(stride, below)
            high, uneven_too = divmod(below * size, stride)
            if uneven or uneven_too:
                raise ValueError(f"pp's stride {stride} cuts {axis} ({size} ranks, {below} apart) unevenly")
            dims += [(str(axis), low), stages, (axis + _HIGH, high)]
        else:
            dims.append((str(axis), size))
        below *= size
    return dims if stages in dims else [*dims, stages]


def _expert_names(grid: Any) -> list[tuple[str, int]]:
    view = grid._views[EXPERT_VIEW]
    return list(zip(view.dim_names, view.shape, strict=True))


def _tuples(groups: list[list[int]]) -> list[tuple[int, ...]]:
    return [tuple(group) for group in groups]
