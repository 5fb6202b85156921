"""From a plan to what a training loop needs beside the model. Groups come only after every check and an agreement.

Once groups exist, a difference between ranks is a hang. So `open_groups` first compares the plan with the world and
with what megatron-core can run. Then, over the default group's store, it compares the plan's digest, the versions and
the settings of all ranks. Only then does it create groups, once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

import attrs
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from torch._C._distributed_c10d import PrefixStore
from torch.distributed import distributed_c10d

from planner import Plan, Spec, compile_spec

from ..errors import ExecutorError
from ..start import DEFAULT_TIMEOUT, device
from ..start.agree import ANY_NODE_SHAPE, Nodes, agree, check_world_size
from ..start.limits import check_limits
from ..start.nodes import Place
from ..start.versions import installed
from .grids import PlannedGrid, build_grids, collection_of
from .groups import ProcessGroups

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


@attrs.frozen(kw_only=True, eq=False)
class MimoModelInfra:
    """What a training loop needs beside the model.

    Attributes:
        module_to_grid_map: the grid of every module, including the modules that the rank does not hold.
        topology: per module, the modules that it feeds.
        pg_collections: per module, the rank's groups; None for a module that the rank does not hold.
        participating_modules: the modules that the rank holds, in plan order.
        module_output_ndim: per module, the number of dims of the tensor that it hands on.
        groups: the rank's process groups.
    """

    module_to_grid_map: dict[str, PlannedGrid]
    topology: dict[str, list[str]]
    pg_collections: dict[str, ProcessGroupCollection | None]
    participating_modules: list[str]
    module_output_ndim: dict[str, int]
    groups: ProcessGroups

    @property
    def plan(self) -> Plan:
        """The plan that all of this comes from."""
        return self.groups.plan


def infra_of(groups: ProcessGroups) -> MimoModelInfra:
    """The infrastructure around groups that exist already."""
    plan, present = groups.plan, groups.view.role.modules
    names = [module.name for module in plan.modules]
    return MimoModelInfra(
        module_to_grid_map=build_grids(plan, groups),
        topology=topology_of(plan),
        pg_collections={name: collection_of(name, groups) if name in present else None for name in names},
        participating_modules=[name for name in names if name in present],
        module_output_ndim={module.name: dims for module in plan.modules if (dims := module.output.tensor_dims)},
        groups=groups,
    )


def topology_of(plan: Plan) -> dict[str, list[str]]:
    """Per module, the modules that it feeds; both in plan order."""
    found: dict[str, list[str]] = {module.name: [] for module in plan.modules}
    for src, dst in plan.edges:
        found[src].append(dst)
    return found


def compiled(given: Plan | Spec) -> Plan:
    """A plan as it is, or a spec compiled: for the world, or for the ranks that it covers if there is no world yet.

    Raises:
        PlanError: the spec cannot be planned.
    """
    if isinstance(given, Plan):
        return given
    return compile_spec(given, world_size=dist.get_world_size() if dist.is_initialized() else None)


def check_plan(plan: Plan, *, own_specs: bool) -> None:
    """Compare a plan with what is to run it: the size of the world, if there is one; the versions; the limits.

    Args:
        own_specs: as in `check_limits`.

    Raises:
        DisagreementError: the world has another size.
        UnsupportedError: this version of megatron-core is not known here, or cannot run the plan.
    """
    if dist.is_initialized():
        check_world_size(dist.get_world_size(), plan.world_size)
    check_limits(plan, own_specs=own_specs, own_loop=True)


def open_groups(
    plan: Plan, settings: Mapping[str, str] = NO_SETTINGS, timeout: timedelta = DEFAULT_TIMEOUT, *, own_specs: bool
) -> ProcessGroups:
    """Every check, the agreement, and then the rank's process groups. Collective over the world.

    Args:
        settings: what else must be equal on all ranks, as names and values.
        timeout: how long to wait for a rank that does not come.
        own_specs: as in `check_limits`.

    Raises:
        ExecutorError: there is no default group, the plan cannot run, or ranks differ. No process group was created.
    """
    if not dist.is_initialized():
        raise ExecutorError("no default process group: call torch.distributed.init_process_group(backend) first")
    check_plan(plan, own_specs=own_specs)
    if dist.get_backend() != "fake":  # a fake world has one process, and a store that keeps nothing
        _agree(plan, settings, timeout)
    if parallel_state._GLOBAL_MEMORY_BUFFER is None:  # linear layers under sequence parallelism gather into it
        parallel_state._set_global_memory_buffer()
    return ProcessGroups(plan, dist.get_rank(), _timeout_of_world())


def _timeout_of_world() -> timedelta | None:
    """The default group's timeout, which `new_group` does not take over; None if its backend has none (fake)."""
    kind = torch.device("cuda" if device.ON_GPU else "cpu")
    options = getattr(distributed_c10d._get_default_group()._get_backend(kind), "options", None)
    return getattr(options, "_timeout", None)


def _agree(plan: Plan, settings: Mapping[str, str], timeout: timedelta) -> None:
    """Compare over the default group's store; each agreement has a key of its own."""
    store, rank = distributed_c10d._get_default_store(), dist.get_rank()
    number = store.add(f"mimo/agreed/{rank}", 1)
    found = {"plan": plan.digest, **installed(), "timeout": str(timeout), **settings}
    store = PrefixStore(f"mimo/agree/{number}", store)
    any_shape = os.environ.get(ANY_NODE_SHAPE) == "1"
    nodes = Nodes(gpus_per_node=plan.gpus_per_node, place=Place.here(), any_shape=any_shape)
    agree(store, rank, dist.get_world_size(), plan.world_size, found, timeout, nodes=nodes)
