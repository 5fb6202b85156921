"""megatron-core's own roles, grids and bridge maps, compared with the plan's. A difference stops the run.

The plan was checked offline; megatron-core derives the same things again while it builds. Where both agree, what was
checked is what runs.
"""

from __future__ import annotations

from typing import Any

from megatron.core.models.mimo.comm.colocated_communicator import ColocatedBridgeCommunicator
from megatron.core.models.mimo.config.role import RankRole
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.parallel_state import default_embedding_ranks, default_position_embedding_ranks
from megatron.core.pipeline_parallel.bridge_communicator import BridgeCommunicator, CommRole
from megatron.core.pipeline_parallel.multimodule_communicator import MultiModulePipelineCommunicator

from planner import MIMO_LANGUAGE_MODULE_KEY, Bridge, GroupKind, ModuleLayout

from .errors import PlanMismatchError
from .grids import KINDS, PlannedGrid, build_grids, rank_enum
from .groups import ProcessGroups

_EMBEDDINGS = {
    GroupKind.EMBD: default_embedding_ranks,
    GroupKind.POS_EMBD: default_position_embedding_ranks,
}


def _expect(what: str, planned: Any, found: Any) -> None:
    if planned != found:
        raise PlanMismatchError(f"{what}: the plan says {planned}, megatron-core {found}; nothing was trained")


def check_layout(groups: ProcessGroups) -> None:
    """The groups of all ranks of every kind that megatron-core enumerates, and the role of this rank. No model needed.

    Left out: the expert view where pp's stride cuts an axis unevenly, which no grid of megatron-core expresses.
    """
    plan, grids = groups.plan, build_grids(groups.plan, groups)
    for name, grid in grids.items():
        for (view, dims), kind in KINDS.items():
            if (enumerated := rank_enum(grid, dims, view)) is not None:
                _expect(f"{kind} groups of {name}", list(plan.groups(name, kind)), enumerated)
    _check_embeddings(groups, grids)
    _check_role(RankRole.build([module.name for module in plan.modules if not module.is_language], grids), groups)


def _check_embeddings(groups: ProcessGroups, grids: dict[str, PlannedGrid]) -> None:
    """megatron-core's choice of stages, for every pipeline of language."""
    pipelines = rank_enum(grids[MIMO_LANGUAGE_MODULE_KEY], frozenset({"pp"}), "base") or []
    for kind, choose in _EMBEDDINGS.items():
        chosen = [tuple(choose(list(ranks))) for ranks in pipelines]
        _expect(f"{kind} groups of language", list(groups.plan.groups(MIMO_LANGUAGE_MODULE_KEY, kind)), chosen)


def _check_role(found: RankRole, groups: ProcessGroups) -> None:
    role = groups.view.role
    _expect("layout", role.mode.value, found.mode.value)
    stages = {name: (stage.is_first_stage, stage.is_last_stage) for name, stage in found.modules.items()}
    planned = {name: (stage.is_first_stage, stage.is_last_stage) for name, stage in role.modules.items()}
    _expect(f"role of rank {groups.rank}", planned, stages)


def check_model(model: MimoModel, groups: ProcessGroups) -> None:
    """The layout, the role that MimoModel took, and the bridges inside it."""
    check_layout(groups)
    _check_role(model.role, groups)
    for (src, dst), bridge in model.colocated_comms.items():
        _check_colocated(bridge, groups.plan.bridge(src, dst), groups)


def check_communicator(communicator: MultiModulePipelineCommunicator, groups: ProcessGroups) -> None:
    """The place of this rank in the pipeline, and who sends to whom over every bridge."""
    if groups.plan.layout is not ModuleLayout.COLOCATED:
        _expect("stages", groups.view.total_stages, communicator.total_stages)
        _expect(f"stage of rank {groups.rank}", groups.view.position, communicator.current_stage)
    for bridge in communicator.bridge_comms:
        _check_bridge(bridge, groups.plan.bridge(bridge.src_module_name, bridge.dest_module_name))


def _check_bridge(found: BridgeCommunicator, planned: Bridge) -> None:
    pairs = sorted((transfer.src_rank, transfer.dst_rank) for transfer in planned.transfers)
    sends = [
        (rank, other)
        for rank, info in found.comm_map.items()
        if info.role is CommRole.SENDER
        for other in info.send_to_ranks
    ]
    receives = [
        (other, rank)
        for rank, info in found.comm_map.items()
        if info.role is CommRole.RECEIVER
        for other in info.recv_from_ranks
    ]
    _expect(f"senders of {planned.name}", pairs, sorted(sends))
    _expect(f"receivers of {planned.name}", pairs, sorted(receives))


def _check_colocated(found: ColocatedBridgeCommunicator, planned: Bridge, groups: ProcessGroups) -> None:
    ranks = sorted(groups.plan.groups(planned.name, GroupKind.BRIDGE_GATHER))
    _expect(f"gather groups of {planned.name}", ranks, sorted(map(tuple, found.gather_group_ranks)))
