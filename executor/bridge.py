"""megatron-core's bridges and pipeline communicator, on groups from the plan.

Thin: who sends what is still decided by megatron-core's own maps; compare.py stops the run where these differ from
the plan's transfers. Limits of the stock bridges are refused in megatron_limits.py.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core.models.mimo.comm.colocated_communicator import BridgeDirection, ColocatedBridgeCommunicator
from megatron.core.pipeline_parallel.bridge_communicator import BridgeCommunicator
from megatron.core.pipeline_parallel.multimodule_communicator import MultiModulePipelineCommunicator
from megatron.core.transformer.transformer_config import TransformerConfig

from planner import Bridge, GroupKind, ModuleLayout, Plan

from .grids import PlannedGrid
from .groups import ProcessGroups

DIM_MAPPING = {"b": 0, "h": 1}  # of the flattened output of an encoder, as MimoModel gives it to colocated bridges


class PlannedBridge(BridgeCommunicator):
    """A BridgeCommunicator that takes its broadcast and leader groups from the plan instead of creating them."""

    def __init__(
        self, bridge: Bridge, grids: dict[str, PlannedGrid], groups: ProcessGroups, dtype: torch.dtype
    ) -> None:
        self._name, self._groups = bridge.name, groups
        super().__init__(
            grids[bridge.src],
            grids[bridge.dst],
            comm_dtype=dtype,
            src_module_name=bridge.src,
            dest_module_name=bridge.dst,
            tensor_ndim=2,
        )

    def _get_or_create_broadcast_pg(self, ranks_list: list[list[int]]) -> dist.ProcessGroup | None:
        mine = [tuple(sorted(ranks)) for ranks in ranks_list if self._groups.rank in ranks]
        return self._groups.with_ranks(self._name, mine[0]) if mine else None

    def _get_or_create_bridge_pg(self, ranks: list[int]) -> dist.ProcessGroup | None:
        if self._groups.rank not in ranks:
            return None
        return self._groups.get(self._name, GroupKind.BRIDGE_P2P)


class PlannedCommunicator(MultiModulePipelineCommunicator):
    """The communicator of megatron-core's pipeline schedule, for any layout.

    Modules on the same ranks exchange tensors inside MimoModel's forward; for the schedule they then have no edges.
    """

    def __init__(
        self, plan: Plan, grids: dict[str, PlannedGrid], groups: ProcessGroups, config: TransformerConfig
    ) -> None:
        self._plan, self._groups = plan, groups
        topology: dict[str, list[str]] = {module.name: [] for module in plan.modules}
        if plan.layout is not ModuleLayout.COLOCATED:
            for src, dst in plan.edges:
                topology[src].append(dst)
        super().__init__(grids, topology, config, module_output_ndim={name: 2 for name, _ in plan.edges})

    def _build_bridge_comms(self) -> None:
        for bridge in self._plan.bridges:
            if bridge.dst in self.topology[bridge.src]:
                made = PlannedBridge(bridge, self.module_to_grid_map, self._groups, self.config.pipeline_dtype)
                self.bridge_comms.append(made)


class PlannedColocatedBridge(ColocatedBridgeCommunicator):
    """A ColocatedBridgeCommunicator on the plan's gather group."""

    def __init__(self, source: PlannedGrid, target: PlannedGrid, groups: ProcessGroups) -> None:
        # Not super().__init__: it creates a group in the middle of its work.
        self.src_grid, self.dest_grid = source, target
        self.src_module_name, self.dest_module_name = source.module.name, target.module.name
        self.dim_mapping = dict(DIM_MAPPING)
        self.current_rank = groups.rank
        self._validate_grids()
        self._extract_parallelism_info()
        self._build_rank_mappings()
        self.direction, self.scale, sibling_tp = self._direction()
        name = f"{source.module.name}->{target.module.name}"
        self.gather_pg = groups.get(name, GroupKind.BRIDGE_GATHER)
        self.gather_group_ranks = [] if sibling_tp is None else self._gather_ranks(sibling_tp)

    def _direction(self) -> tuple[BridgeDirection, int, int | None]:
        """Which side has more lanes, by what factor, and that side's tp size."""
        if self.src_dp_size > self.dest_dp_size:
            return BridgeDirection.FAN_IN, self.src_dp_size // self.dest_dp_size, self.src_tp_size
        if self.dest_dp_size > self.src_dp_size:
            return BridgeDirection.FAN_OUT, self.dest_dp_size // self.src_dp_size, self.dest_tp_size
        return BridgeDirection.EQUAL, 1, None

    def _gather_ranks(self, sibling_tp: int) -> list[list[int]]:
        """megatron-core's own gather groups, kept to be compared with the plan's."""
        fan_in = self.direction is BridgeDirection.FAN_IN
        found: list[list[int]] = self._build_gather_groups(
            iter_size=self.dest_dp_size if fan_in else self.src_dp_size,
            sibling_tp_size=sibling_tp,
            scale=self.scale,
            rank_to_pos=self.rank_to_src_pos if fan_in else self.rank_to_dest_pos,
        )
        return found

    def destroy(self) -> None:
        """Nothing: the group belongs to ProcessGroups and ends with the default group."""
