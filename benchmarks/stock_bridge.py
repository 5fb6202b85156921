"""The peer of step time: megatron-core's own communicator and bridges, on the plan's groups.

It is independent of executor/bridge/, so that it stays as it is when that changes.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from megatron.core.pipeline_parallel.bridge_communicator import BridgeCommunicator
from megatron.core.pipeline_parallel.multimodule_communicator import MultiModulePipelineCommunicator

from executor.groups.groups import ProcessGroups
from planner import Bridge, GroupKind, Plan


class StockBridge(BridgeCommunicator):
    """The stock bridge, on given groups: it would create its own with NCCL."""

    def __init__(self, bridge: Bridge, grids: dict[str, Any], groups: ProcessGroups, dtype: Any) -> None:
        self._bridge, self._groups = bridge, groups
        super().__init__(
            grids[bridge.src], grids[bridge.dst], comm_dtype=dtype, src_module_name=bridge.src,
            dest_module_name=bridge.dst, tensor_ndim=2,
        )  # fmt: skip

    def _get_or_create_broadcast_pg(self, ranks_list: list[list[int]]) -> dist.ProcessGroup | None:
        mine = [tuple(sorted(ranks)) for ranks in ranks_list if self._groups.rank in ranks]
        owned = (opened for group, opened in self._groups if (group.owner, group.ranks) == (self._bridge.name, *mine))
        return next(owned) if mine else None

    def _get_or_create_bridge_pg(self, ranks: list[int]) -> dist.ProcessGroup | None:
        return self._groups.get(self._bridge.name, GroupKind.BRIDGE_P2P) if self._groups.rank in ranks else None


class StockCommunicator(MultiModulePipelineCommunicator):
    """The stock communicator of the pipeline schedule, for modules on their own ranks."""

    def __init__(self, plan: Plan, grids: dict[str, Any], groups: ProcessGroups, config: Any) -> None:
        self._plan, self._groups = plan, groups
        topology = {module.name: [dst for src, dst in plan.edges if src == module.name] for module in plan.modules}
        super().__init__(grids, topology, config, module_output_ndim={src: 2 for src, _ in plan.edges})

    def _build_bridge_comms(self) -> None:
        dtype = self.config.pipeline_dtype
        self.bridge_comms += [
            StockBridge(bridge, self.module_to_grid_map, self._groups, dtype) for bridge in self._plan.bridges
        ]

    def flush(self) -> None:
        """Do nothing: the executor's loop calls this between steps, and these sends have been waited for."""
