"""megatron-core's own roles, grids and bridge maps, compared with the plan's. A difference stops the run.

The plan was checked offline; megatron-core derives the same things again while it builds. Where both agree, what was
checked is what runs.
"""

from __future__ import annotations

from typing import Any

from megatron.core.hyper_comm_grid import HyperCommGrid
from megatron.core.models.mimo.comm.colocated_communicator import ColocatedBridgeCommunicator
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.pipeline_parallel.bridge_communicator import BridgeCommunicator, CommRole
from megatron.core.pipeline_parallel.multimodule_communicator import MultiModulePipelineCommunicator

from planner import Bridge, GroupKind, ModuleLayout

from .errors import PlanMismatchError
from .groups import ProcessGroups

_DIMS = {
    GroupKind.TP: ["tp"],
    GroupKind.DP: ["dp"],
    GroupKind.PP: ["pp"],
    GroupKind.DP_CP: ["dp", "cp"],
    GroupKind.MP: ["tp", "pp"],
}


def _expect(what: str, planned: Any, found: Any) -> None:
    if planned != found:
        raise PlanMismatchError(f"{what}: the plan says {planned}, megatron-core {found}; nothing was trained")


def check_model(model: MimoModel, groups: ProcessGroups) -> None:
    """The role of this rank, the grids of all modules, and the bridges inside MimoModel."""
    role = groups.view.role
    _expect("layout", role.mode.value, model.role.mode.value)
    found = {name: (stage.is_first_stage, stage.is_last_stage) for name, stage in model.role.modules.items()}
    planned = {name: (stage.is_first_stage, stage.is_last_stage) for name, stage in role.modules.items()}
    _expect(f"role of rank {groups.rank}", planned, found)
    for name, grid in model.mimo_config.module_to_grid_map.items():
        for kind, dims in _DIMS.items():
            ordered, _ = grid._order_dims_for(grid.dim_names, dims if len(dims) > 1 else dims[0])
            enumerated = HyperCommGrid._gen_rank_enum(grid, ordered)
            _expect(f"{kind} groups of {name}", [list(ranks) for ranks in groups.plan.groups(name, kind)], enumerated)
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
