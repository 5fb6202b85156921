"""What a training loop of one's own calls around megatron-core's schedule; names as in Megatron-Bridge.

config.finalize_model_grads_func = partial(finalize_model_grads_multimodule, infra=infra)
config.no_sync_func = partial(multimodule_no_sync, module_to_grid_tuple=get_module_to_grid_tuple(model, infra))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.process_groups_config import MultiModuleProcessGroupCollection
from megatron.core.utils import unwrap_model

from planner import MIMO_LANGUAGE_MODULE_KEY, ModuleLayout, Plan

from .bridge import DIM_MAPPING
from .ddp import modules_of
from .errors import ExecutorError
from .gradients import Finalizer
from .grids import PlannedGrid, build_grids
from .groups import ProcessGroups
from .provider import MimoModelInfra

ModulesAndGrids = list[tuple[Any, PlannedGrid]]


def build_hypercomm_grids(plan: Plan) -> dict[str, PlannedGrid]:
    """Every module's grid, on groups that are created here; a provider has its own already. Collective."""
    return build_grids(plan, ProcessGroups(plan, dist.get_rank()))


@attrs.frozen(kw_only=True)
class ColocatedCommConfig:
    """Bridges between modules on the same ranks.

    Megatron-Bridge's builder gives MimoModel a class of this name, which megatron-core 0.19 no longer has: there
    MimoModelConfig takes `module_to_grid_map` and derives the rest, which is here to be read.

    Attributes:
        module_to_grid_map: every module's grid.
        topology: module -> modules that it feeds.
        dim_mapping: place of batch and hidden in a bridge's tensor; samples are flattened, (items * tokens, hidden).
    """

    module_to_grid_map: dict[str, PlannedGrid]
    topology: dict[str, list[str]]
    dim_mapping: dict[str, int]


def build_colocated_comm_config(
    plan: Plan, module_to_grid_map: dict[str, PlannedGrid] | None = None
) -> ColocatedCommConfig:
    """The bridges of a colocated plan, on a provider's grids, or without groups if these are left out.

    Raises:
        ExecutorError: the plan's modules are not on the same ranks.
    """
    if plan.layout is not ModuleLayout.COLOCATED:
        raise ExecutorError(f"layout = {plan.layout.value}: only modules on the same ranks have colocated bridges")
    topology: dict[str, list[str]] = {module.name: [] for module in plan.modules}
    for src, dst in plan.edges:
        topology[src].append(dst)
    grids = build_grids(plan, None) if module_to_grid_map is None else module_to_grid_map
    return ColocatedCommConfig(module_to_grid_map=grids, topology=topology, dim_mapping=dict(DIM_MAPPING))


def unwrap_mimo_model(model: Any) -> MimoModel:
    """The MimoModel inside any wrappers. Raises ExecutorError where there is none."""
    found = unwrap_model(model[0] if isinstance(model, Sequence) else model)
    if not isinstance(found, MimoModel):
        raise ExecutorError(f"expected a MimoModel, got {type(found).__name__}")
    return found


def is_current_rank_in_grid(grid: PlannedGrid) -> bool:
    """Whether this rank belongs to the grid's module."""
    return dist.get_rank() in grid.module.grid


def get_module_to_grid_tuple(model: Any, infra: MimoModelInfra) -> ModulesAndGrids:
    """This rank's modules, each with its grid."""
    return [(module, infra.module_to_grid_map[name]) for name, module in modules_of(unwrap_mimo_model(model))]


def build_pg_collection_for_schedule(infra: MimoModelInfra) -> MultiModuleProcessGroupCollection:
    """The rank's groups in the form that the schedule asks for."""
    present = {name: found for name, found in infra.pg_collections.items() if found is not None}
    language = MIMO_LANGUAGE_MODULE_KEY if MIMO_LANGUAGE_MODULE_KEY in present else None
    return MultiModuleProcessGroupCollection(present, language)


@contextmanager
def multimodule_no_sync(*, module_to_grid_tuple: ModulesAndGrids) -> Iterator[None]:
    """No gradient reduction in any of the rank's modules while active."""
    with ExitStack() as stack:
        for module, _ in module_to_grid_tuple:
            stack.enter_context(module.no_sync())
        yield


def zero_grad_buffer_for_multimodule(module_to_grid_tuple: ModulesAndGrids) -> None:
    """Zero the gradients of every module of the rank."""
    for module, _ in module_to_grid_tuple:
        module.zero_grad_buffer()


def finalize_model_grads_multimodule(
    model: list[Any],
    num_tokens: torch.Tensor | None = None,
    pg_collection: Any = None,
    force_all_reduce: bool = False,
    *,
    infra: MimoModelInfra,
) -> None:
    """Reduce every module's gradients over its own groups, then divide all by the one global token count."""
    unwrapped = unwrap_mimo_model(model)
    where = next(unwrapped.parameters()).device
    Finalizer(infra.groups, where)([unwrapped], num_tokens, pg_collection, force_all_reduce)


def validate_no_stub_ranks(plan: Plan, world_size: int) -> None:
    """Every rank of the world has a module. A plan leaves none idle, so only the world can differ."""
    if plan.world_size != world_size:
        first, last = sorted((plan.world_size, world_size))
        what = "have no module" if world_size > plan.world_size else "are missing"
        raise ExecutorError(
            f"world size = {world_size}, the plan has {plan.world_size} ranks: ranks {first}-{last - 1} {what}"
        )


def validate_data_loader_contract(
    plan: Plan, *, global_batch_size: int, micro_batch_size: int, num_microbatches: int
) -> None:
    """The loader's numbers are the plan's; the micro batch is the whole model's."""
    batch = plan.batch
    planned = (batch.global_size, batch.micro_size, batch.num_microbatches)
    found = (global_batch_size, micro_batch_size, num_microbatches)
    if planned != found:
        names = "(global_batch_size, micro_batch_size, num_microbatches)"
        raise ExecutorError(f"{names} = {found}, but the plan says {planned}; micro_batch_size is the whole model's")
