"""What a training loop calls around megatron-core's schedule, under Megatron-Bridge's names.

    pairs = get_module_to_grid_tuple(model, infra)
    model.config.no_sync_func = partial(multimodule_no_sync, module_to_grid_tuple=pairs)
    model.config.finalize_model_grads_func = partial(
        finalize_model_grads_multimodule, infra=infra, module_to_grid_tuple=pairs
    )

`commands/trainer.py` calls the same functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import torch.distributed as dist
from megatron.core.hyper_comm_grid import HyperCommGrid
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.process_groups_config import MultiModuleProcessGroupCollection

from planner import MIMO_LANGUAGE_MODULE_KEY, ModuleLayout, Plan, Spec

from ..bridge.communicator import PipelineCommunicator
from ..errors import ExecutorError
from ..groups.grids import PlannedGrid, build_grids
from ..groups.infra import MimoModelInfra, compiled, open_groups, topology_of
from ..model.model import modules_of
from ..start import device
from ..training.gradients import ModulesAndGrids

DIM_MAPPING = {"b": 0, "h": 1}  # dims of an encoder's flattened output


def build_hypercomm_grids(plan: Plan | Spec) -> dict[str, PlannedGrid]:
    """Every module's grid, on groups that this call creates. Collective. A provider's infra already has its own grids.

    Grids hold no model, so the plan may go beyond what the ready-made models can do.
    """
    plan = compiled(plan)
    return build_grids(plan, open_groups(plan, own_specs=True))


@attrs.frozen(kw_only=True)
class ColocatedCommConfig:
    """Bridges between modules on the same ranks.

    Megatron-Bridge passes MimoModel a class of this name, which megatron-core 0.19 no longer has: its
    MimoModelConfig takes `module_to_grid_map` and derives the rest. This class gives access to all three.

    Attributes:
        module_to_grid_map: every module's grid.
        topology: each module's list of the modules that it feeds.
        dim_mapping: the dims of batch and hidden size in a bridge's tensor, which is flattened to
            (items * tokens, hidden).
    """

    module_to_grid_map: dict[str, PlannedGrid]
    topology: dict[str, list[str]]
    dim_mapping: dict[str, int]


def build_colocated_comm_config(
    plan: Plan | Spec, module_to_grid_map: dict[str, PlannedGrid] | None = None
) -> ColocatedCommConfig:
    """The bridges of a colocated plan, on a provider's grids, or on grids without groups if none are given.

    Raises:
        ExecutorError: the plan's modules are not all on the same ranks.
    """
    plan = compiled(plan)
    if plan.layout is not ModuleLayout.COLOCATED:
        raise ExecutorError(f"layout = {plan.layout.value}: only modules on the same ranks have colocated bridges")
    grids = build_grids(plan, None) if module_to_grid_map is None else module_to_grid_map
    return ColocatedCommConfig(module_to_grid_map=grids, topology=topology_of(plan), dim_mapping=dict(DIM_MAPPING))


def build_communicator(model: Any, infra: MimoModelInfra) -> PipelineCommunicator:
    """The `p2p_communicator` argument of the schedule, on the plan's groups."""
    return PipelineCommunicator(infra.groups, unwrap_mimo_model(model).config, device.current())


def build_pg_collection_for_schedule(infra: MimoModelInfra) -> MultiModuleProcessGroupCollection:
    """The `pg_collection` argument of the schedule: the groups of this rank's modules."""
    present = {name: found for name, found in infra.pg_collections.items() if found is not None}
    language = MIMO_LANGUAGE_MODULE_KEY if MIMO_LANGUAGE_MODULE_KEY in present else None
    return MultiModuleProcessGroupCollection(present, language)


def unwrap_mimo_model(model: Any) -> MimoModel:
    """The MimoModel inside any wrappers, or inside a list of one. Raises ExecutorError if there is none."""
    found = model[0] if isinstance(model, Sequence) and len(model) == 1 else model
    while not isinstance(found, MimoModel) and hasattr(found, "module"):
        found = found.module
    if not isinstance(found, MimoModel):
        raise ExecutorError(f"expected a MimoModel, wrapped or not, got {type(found).__name__}")
    return found


def is_current_rank_in_grid(grid: HyperCommGrid) -> bool:
    """Whether this rank belongs to the grid's module."""
    return bool(grid.rank_offset <= dist.get_rank() < grid.rank_offset + grid.size)


def get_module_to_grid_tuple(mimo_model: Any, infra: MimoModelInfra) -> ModulesAndGrids:
    """This rank's modules, with their wrappers, each paired with its grid."""
    return [(module, infra.module_to_grid_map[name]) for name, module in modules_of(unwrap_mimo_model(mimo_model))]


@contextmanager
def multimodule_no_sync(*, module_to_grid_tuple: ModulesAndGrids) -> Iterator[None]:
    """A context in which none of the rank's modules reduces gradients."""
    with ExitStack() as stack:
        for module, _ in module_to_grid_tuple:
            stack.enter_context(module.no_sync())
        yield


def zero_grad_buffer_for_multimodule(module_to_grid_tuple: ModulesAndGrids) -> None:
    """Zero the gradient buffers of every module of the rank."""
    for module, _ in module_to_grid_tuple:
        module.zero_grad_buffer()
