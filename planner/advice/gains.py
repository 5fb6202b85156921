"""What a step gains if the groups that cross nodes no longer do: the remedies of these warnings are tried."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite

import attrs

from ..base import codes
from ..base.errors import Fault, PlanError
from ..cost.predict import price
from ..cost.prediction import Prediction
from ..cost.simulation.schedule import num_passes
from ..cost.simulation.words import duration
from ..cost.timing.group_spans import gpus_per_node
from ..passes.compile import compile_spec
from ..passes.nodes import Move, moves
from ..plan import Plan
from ..spec.sections import Module, Parallel
from ..spec.spec import Spec
from .changes import has_written_offsets
from .notes import MAX_PASSES, MAX_RANKS

_MOST_MODULES = 16
_CROSSING = (codes.TP_CROSSES_NODE, codes.EXPERTS_CROSS_NODE)


def with_gains(plan: Plan, p: Prediction, warnings: Iterable[Fault]) -> tuple[Fault, ...]:
    """The warnings, those of groups that cross nodes with the seconds of a step after their remedy.

    Args:
        plan: a plan whose modules all have models.
        p: its prediction, in seconds.
        warnings: its warnings.
    """
    is_small = num_passes(plan) <= MAX_PASSES and plan.world_size <= MAX_RANKS and len(plan.modules) <= _MOST_MODULES
    return tuple(_with_gain(plan, p, one) if is_small and one.code in _CROSSING else one for one in warnings)


def _with_gain(plan: Plan, p: Prediction, warning: Fault) -> Fault:
    grids = {module.name: module.grid for module in plan.modules}
    has_offsets = "rank_offset" in warning.remedy or has_written_offsets(plan)
    found = moves(grids, str(warning.path[1]), gpus_per_node(plan), has_offsets=has_offsets)
    seconds, words = min(((_seconds(plan, p, move), move.words) for move in found), default=(inf, ""))
    if not isfinite(seconds) or p.timeline is None:
        return warning
    gain = f"a step then takes {duration(seconds)} instead of {duration(p.step_seconds)}"
    if seconds >= p.step_seconds:
        gain = "no step is predicted to be faster"
    return attrs.evolve(warning, remedy=f"{words}: {gain}")


def _seconds(plan: Plan, p: Prediction, move: Move) -> float:
    """The seconds of a step after a move; infinite if it cannot be made, or if the schedule then stops for good."""
    try:
        return price(compile_spec(_moved(plan, move), world_size=plan.world_size), p.hardware, p.settings)
    except PlanError:
        return inf


def _moved(plan: Plan, move: Move) -> Spec:
    spec = plan.to_spec()
    grids = move.moved({module.name: module.grid for module in plan.modules})

    def moved(name: str) -> Module:
        module, grid = spec.modules[name], grids[name]
        parallel = attrs.evolve(module.parallel or Parallel(), order=grid.order, rank_offset=grid.rank_offset)
        return attrs.evolve(module, parallel=parallel)

    return attrs.evolve(spec, modules={name: moved(name) for name in grids})
