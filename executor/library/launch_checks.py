"""Megatron-Bridge's two checks of a launch, with its arguments and its kind of error, answered by the plan.

Megatron-Bridge's own `validate_data_loader_contract` calls a grid method that megatron-core 0.19 does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from megatron.core.hyper_comm_grid import HyperCommGrid

from planner import Plan

from ..checks.data import Microbatch, data_faults
from ..checks.world import raise_together
from ..errors import ExecutorError
from ..start import device

_MAX_NAMED = 8


class ContractError(ExecutorError, ValueError):
    """A launch was given numbers that differ from the plan's. A ValueError, as in Megatron-Bridge."""


def validate_no_stub_ranks(module_to_grid_map: Mapping[str, HyperCommGrid] | Plan | Any, world_size: int) -> None:
    """Check that every rank of the world has a module, and that every module's ranks exist.

    Args:
        module_to_grid_map: grids by module; or a plan, or an object with a `.plan` (an infra, a provider).
        world_size: number of ranks that were started.

    Raises:
        ContractError: the message names the ranks.
    """
    if isinstance(module_to_grid_map, Mapping):
        ranges = [range(grid.rank_offset, grid.rank_offset + grid.size) for grid in module_to_grid_map.values()]
    else:
        ranges = [module.ranks for module in plan_of(module_to_grid_map).modules]
    held, world = {rank for ranks in ranges for rank in ranks}, set(range(world_size))
    for ranks, what in ((world - held, "have no module"), (held - world, "are missing from the world")):
        if ranks:
            raise ContractError(
                f"world size = {world_size}, the modules cover {len(held)} ranks: ranks {_some(ranks)} {what}; "
                f"start {len(held)} processes, or change the layout"
            )


def validate_data_loader_contract(
    infra: Plan | Any,
    global_batch_size: int,
    micro_batch_size: int,
    num_microbatches: int,
    *,
    microbatches: Iterable[Microbatch] | None = None,
) -> None:
    """Check that a data loader's numbers are the plan's, and perhaps its samples. Collective if given microbatches.

    Args:
        infra: an object with a `.plan` (an infra, a provider), or a plan.
        global_batch_size: samples per optimizer step.
        micro_batch_size: samples per microbatch of the whole model, over all lanes.
        num_microbatches: microbatches per optimizer step.
        microbatches: some of the loader's, each as the global microbatch, its `num_items`, and what `batch_of_rank`
            makes of them. They are compared over the world, and with the plan's slices. Needs an infra.

    Raises:
        ContractError: the message names every number that differs.
        InconsistentError: on all ranks, if ranks draw different samples, or one does not take its lane's.
    """
    batch = plan_of(infra).batch
    pairs = {
        "global_batch_size": (global_batch_size, batch.global_size),
        "micro_batch_size": (micro_batch_size, batch.micro_size),
        "num_microbatches": (num_microbatches, batch.num_microbatches),
    }
    wrong = [f"{name} = {planned}, got {found}" for name, (found, planned) in pairs.items() if found != planned]
    if wrong:
        lanes = ", ".join(f"{size} in a lane of {name}" for name, size in batch.samples_per_lane.items())
        raise ContractError(
            f"the plan says {'; '.join(wrong)} (micro_batch_size is the whole model's: {lanes}); "
            "change the loader, or the spec's batch"
        )
    if microbatches is not None:  # also without any: another rank's loader may have some
        groups: Any = infra.groups  # an infra's; a plan has no process groups
        raise_together(list(data_faults(groups, microbatches, device.current())), 0, device.current())


def plan_of(source: Plan | Any) -> Plan:
    """The plan that was given, or the `.plan` of what was given. Raises ContractError if there is none."""
    found = source if isinstance(source, Plan) else getattr(source, "plan", None)
    if not isinstance(found, Plan):
        raise ContractError(f"expected a plan, or what carries one as .plan, got {type(source).__name__}")
    return found


def _some(ranks: Iterable[int]) -> str:
    shown = sorted(ranks)
    text = ", ".join(map(str, shown[:_MAX_NAMED]))
    return text if len(shown) <= _MAX_NAMED else f"{text} and {len(shown) - _MAX_NAMED} more"
