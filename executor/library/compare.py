"""Compares megatron-core's own roles, grids and bridge maps with the plan's. A difference stops the run.

The plan was checked offline; megatron-core derives the same things again while it builds. If both agree, what was
checked is what runs.
"""

from __future__ import annotations

from typing import Any

from megatron.core.models.mimo.config.role import RankRole
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.parallel_state import default_embedding_ranks, default_position_embedding_ranks
from megatron.core.pipeline_parallel.bridge_communicator import BridgeCommunicator, CommRole
from megatron.core.pipeline_parallel.multimodule_communicator import MultiModulePipelineCommunicator

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, GroupKind, ModuleLayout, Strategy
from planner.layout.dag import stages_before

from ..errors import PlanMismatchError
from ..groups.grids import KINDS, PlannedGrid, build_grids, rank_enum
from ..groups.groups import ProcessGroups
from ..groups.infra import topology_of

_EMBEDDINGS = {
    GroupKind.EMBD: default_embedding_ranks,
    GroupKind.POS_EMBD: default_position_embedding_ranks,
}


def _expect(what: str, planned: Any, found: Any) -> None:
    if planned != found:
        raise PlanMismatchError(f"{what}: the plan says {planned}, megatron-core {found}; nothing was trained")


def check_layout(groups: ProcessGroups, grids: dict[str, PlannedGrid] | None = None) -> None:
    """Compare what megatron-core derives without a model: groups of every kind, leaders of bridges, this rank's role.

    The expert view is left out if pp's stride cuts an axis unevenly, which no grid of megatron-core can express.

    Args:
        groups: this rank's process groups.
        grids: the grids that a model was given; new ones if left out.
    """
    plan = groups.plan
    grids = grids or build_grids(plan, groups)
    for name, grid in grids.items():
        for (view, dims), kind in KINDS.items():
            if (enumerated := rank_enum(grid, dims, view)) is not None:
                _expect(f"{kind} groups of {name}", list(plan.groups(name, kind)), enumerated)
    _check_embeddings(groups, grids)
    _check_leaders(groups, grids)
    _check_stages(groups, grids)
    _check_role(RankRole.build([module.name for module in plan.modules if not module.is_language], grids), groups)


def _check_embeddings(groups: ProcessGroups, grids: dict[str, PlannedGrid]) -> None:
    """megatron-core's choice of stages, for every pipeline of language."""
    pipelines = rank_enum(grids[MIMO_LANGUAGE_MODULE_KEY], frozenset({"pp"}), "base") or []
    for kind, choose in _EMBEDDINGS.items():
        chosen = [tuple(choose(list(ranks))) for ranks in pipelines]
        _expect(f"{kind} groups of language", list(groups.plan.groups(MIMO_LANGUAGE_MODULE_KEY, kind)), chosen)


def _check_role(found: RankRole, groups: ProcessGroups) -> None:
    role, plan = groups.view.role, groups.plan
    if role.mode is ModuleLayout.COLOCATED and any(module.num_stages > 1 for module in plan.modules):
        return  # megatron-core calls every stage of such a layout first and last
    if role.mode is not ModuleLayout.MIXED:  # megatron-core knows no such layout
        _expect("layout", role.mode.value, found.mode.value)
    stages = {name: (stage.is_first_stage, stage.is_last_stage) for name, stage in found.modules.items()}
    planned = {name: (stage.is_first_stage, stage.is_last_stage) for name, stage in role.modules.items()}
    _expect(f"role of rank {groups.rank}", planned, stages)


def check_model(model: MimoModel, groups: ProcessGroups) -> None:
    """Compare the layout, and the role that MimoModel took, with the plan's."""
    check_layout(groups, model.mimo_config.module_to_grid_map)
    _check_role(model.role, groups)


def _check_stages(groups: ProcessGroups, grids: dict[str, PlannedGrid]) -> None:
    """How megatron-core counts stages, and that it counts the pipeline that runs if no modules share ranks.

    It counts every module on the longest path by itself. Modules that share ranks with language, or that feed one
    another on shared ranks, run as one node of the schedule, which is what the plan counts: the two agree if there are
    none. MIXED layouts are left out, because megatron-core does not know them.
    """
    plan, view = groups.plan, groups.view
    if view.role.mode is ModuleLayout.MIXED:
        return
    topology = topology_of(plan)
    count = MultiModulePipelineCommunicator.compute_total_pipeline_stages
    first = next(iter(view.stages))
    found = count(topology, grids, groups.rank, first) - 1, count(topology, grids)
    before = stages_before(plan.edges, {module.name: module.num_stages for module in plan.modules})
    total = max(before[module.name] + module.num_stages for module in plan.modules)
    counted = before[first] + view.stages[first].stage, total
    _expect(f"stages before rank {groups.rank} on the longest path, and on all of it", counted, found)
    if view.role.mode is ModuleLayout.NON_COLOCATED and not plan.pipeline.shared:
        _expect(f"position of rank {groups.rank}, and stages", (view.position, view.total_stages), found)


def _check_leaders(groups: ProcessGroups, grids: dict[str, PlannedGrid]) -> None:
    """Who sends to whom over every bridge that megatron-core could carry itself: dp sizes that divide, and cp 1."""
    for planned in groups.plan.bridges:
        source, destination = (groups.plan.module(name).grid for name in (planned.src, planned.dst))
        divides = not source.num_lanes % destination.num_lanes or not destination.num_lanes % source.num_lanes
        has_cp = max(source.size_of(Axis.CP), destination.size_of(Axis.CP)) > 1
        if divides and not has_cp and planned.strategy is not Strategy.GATHER:
            pairs = sorted((transfer.src_rank, transfer.dst_rank) for transfer in planned.transfers)
            sends, receives = _stock_pairs(grids[planned.src], grids[planned.dst], groups.rank)
            _expect(f"senders of {planned.name}", pairs, sends)
            _expect(f"receivers of {planned.name}", pairs, receives)


def _stock_pairs(source: PlannedGrid, target: PlannedGrid, rank: int) -> tuple[list[Any], list[Any]]:
    """(sender, receiver) pairs as megatron-core's BridgeCommunicator maps them: of its senders, and of its receivers.

    Its constructor would create groups and wait for the world; its maps need neither.
    """
    found = object.__new__(BridgeCommunicator)
    found.src_grid, found.dest_grid, found.current_rank, found.comm_map = source, target, rank, {}
    senders, _ = found.get_leader_rank(source, is_src=True)
    receivers, _ = found.get_leader_rank(target, is_src=False)
    found.build_comm_map(senders, receivers)
    maps = found.comm_map.items()
    sends = [(one, to) for one, info in maps if info.role is CommRole.SENDER for to in info.send_to_ranks]
    gets = [(of, one) for one, info in maps if info.role is CommRole.RECEIVER for of in info.recv_from_ranks]
    return sorted(sends), sorted(gets)
