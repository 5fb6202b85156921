"""Which rank of each module needs most memory, with all modules that it holds."""

from __future__ import annotations

from ...base.axes import Axis
from ...base.frozen import frozen
from ...layout.ir import ModulePlan
from ...plan import Plan
from ..simulation.schedule import Stage, position_of, schedule_of
from ..work.facts import Facts, facts_of
from ..work.settings import Settings
from .memory import WORKSPACE_BYTES, Memory, communicator_bytes, stage_memory


@frozen(kw_only=True)
class RankMemory:
    """The rank of a module that needs most memory.

    Attributes:
        module: the module.
        stage: the stage of it that the rank holds.
        rank: the rank.
        memory: bytes of all modules on the rank together.
        communicators: bytes of the communicators that the rank opens.
    """

    module: str
    stage: int
    rank: int
    memory: Memory
    communicators: float

    @property
    def total(self) -> float:
        """All bytes of the rank."""
        return self.memory.total + self.communicators


def first_rank(module: ModulePlan, stage: int) -> int:
    """The lowest rank of a stage."""
    return module.grid.rank_offset + stage * module.grid.dense.period


def position_at(plan: Plan, rank: int) -> int:
    """The position of a rank in the pipeline, with all stages that it holds."""
    return position_of(plan, [Stage(module.name, stage) for module, stage in _stages_on(plan, rank)])


def _stages_on(plan: Plan, rank: int) -> list[tuple[ModulePlan, int]]:
    """The stages that a rank holds, in plan order."""
    return [(module, module.grid.coord(rank, Axis.PP)) for module in plan.modules if rank in module.grid]


def rank_memory(plan: Plan, rank: int, settings: Settings, facts: Facts | None = None) -> Memory:
    """The memory of all modules on a rank, without communicators.

    Args:
        plan: the plan.
        rank: a rank of its world.
        settings: what is assumed of the training software.
        facts: the facts of the plan's stages under these settings. They are derived here if left out, of all stages:
            whoever asks for many ranks derives them once.
    """
    facts = facts_of(plan, settings) if facts is None else facts
    total, position = Memory(workspace=settings.num_workspaces * WORKSPACE_BYTES), position_at(plan, rank)
    for module, stage in _stages_on(plan, rank):
        total += stage_memory(plan, facts[module.name, stage], position=position)
    return total


def peaks(plan: Plan, settings: Settings, facts: Facts | None = None) -> tuple[RankMemory, ...]:
    """For each module, the rank that needs most memory; the lowest if several need as much.

    Ranks that hold the same stages are alike. The arguments are those of `rank_memory`.
    """
    facts = facts_of(plan, settings) if facts is None else facts
    memory = {unit.ranks[0]: rank_memory(plan, unit.ranks[0], settings, facts) for unit in schedule_of(plan).units}
    found = []
    for module in plan.modules:
        ranks = sorted(rank for rank in memory if rank in module.grid)
        rank = max(ranks, key=lambda rank: memory[rank].total)
        found.append(
            RankMemory(
                module=module.name,
                stage=module.grid.coord(rank, Axis.PP),
                rank=rank,
                memory=memory[rank],
                communicators=communicator_bytes(plan, rank),
            )
        )
    return tuple(found)
