"""What is slow and not wrong, as notes: a wide bubble, GPUs that compute little, memory that leaves no room for errors.

Each note says what would help most of what was tried: layouts near the plan's own are compiled, held to what can run,
and predicted. A plan that does not fit has no notes: its memory comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..base import codes
from ..base.errors import Fault, Faults, PlanError
from ..base.frozen import frozen
from ..cost.memory.peaks import peaks
from ..cost.memory.remedies import remedies
from ..cost.predict import predict, price
from ..cost.prediction import Prediction
from ..cost.simulation.schedule import num_passes
from ..cost.simulation.timeline import Timeline
from ..cost.simulation.words import duration
from ..cost.work.ops import GIB
from ..limits.limits import limits_of
from ..limits.target import Target, planned_layers
from ..passes.compile import compile_spec
from ..plan import Plan
from .changes import Change, faster_changes

BUBBLE = 0.30  # of the pipeline's time
BUSY = 0.20  # of the pipeline's time, of the average rank of a module
MEMORY_ERROR = 0.035  # room to keep: measured peaks were up to 3 % from the prediction (docs/predictions.md)
_WORTH = 0.98  # a change that leaves more of the step's time is not worth a line
MAX_PASSES = 10_000  # of a step that is simulated again and again: a tenth of a second each
MAX_RANKS = 16_384
_WORK_OF_STAGE = 500  # passes that could be simulated while a stage is planned and its work counted
_MOST_WORK = 120_000  # of all tries: about a second


@frozen
class _Tried:
    """A layout that runs, fits and is faster: what to write for it, the seconds of its step, and its pipeline."""

    words: str
    seconds: float
    timeline: Timeline


def notes(plan: Plan, p: Prediction) -> tuple[Fault, ...]:
    """The notes on a plan, in source order; none if it does not fit, or if its schedule stops for good.

    Args:
        plan: a plan whose modules all have models.
        p: its prediction, in seconds and bytes.
    """
    faults = Faults(plan.source)
    if not p.fits or p.timeline is None:
        return ()
    timeline = p.timeline
    idle = {module.name: busy for module in plan.modules if (busy := _busy(timeline, module.name)) < BUSY}
    tried = _tried(plan, p) if idle or p.bubble > BUBBLE else ()
    said = ""
    if idle:
        said = _remedy(tried, p, lambda other: all(_busy(other, name) > busy for name, busy in idle.items()))
        got = " and ".join(f"{busy:.1%} of {name}" for name, busy in idle.items())
        rule = f"GPUs of a module compute for at least {BUSY:.0%} of the pipeline's time, got {got}"
        faults.add(codes.IDLE_GPUS, ("modules", next(iter(idle))), rule, said)
    remedy = _remedy(tried, p, lambda other: other.bubble < timeline.bubble) if p.bubble > BUBBLE else said
    if remedy != said:  # else the idle GPUs are the bubble, and one note is enough
        rule = f"the bubble <= {BUBBLE:.0%} of the pipeline's time, got {p.bubble:.1%}"
        faults.add(codes.BUBBLE, ("batch",), rule, remedy)
    for note in _tight(plan, p):
        faults.add(*note)
    return faults.warnings


def _busy(timeline: Timeline, module: str) -> float:
    """The share of the pipeline's time for which the average rank of a module computes."""
    units = [
        (len(unit.ranks), busy)
        for unit, busy in zip(timeline.schedule.units, timeline.busy, strict=True)
        if any(stage.module == module for stage in unit.stages)
    ]
    seconds = sum(count * busy for count, busy in units) / sum(count for count, _ in units)
    return seconds / timeline.makespan if timeline.makespan else 1.0


def _tried(plan: Plan, p: Prediction) -> tuple[_Tried, ...] | None:
    """The layouts that are faster, the fastest first; None if the plan is too large to try any."""
    if num_passes(plan) > MAX_PASSES or plan.world_size > MAX_RANKS:
        return None
    found, work, is_tried = [], 0, False
    for change in faster_changes(plan):
        work += _WORK_OF_STAGE * sum(module.num_stages for module in plan.modules) + num_passes(plan)
        if work > _MOST_WORK:
            if not is_tried:
                return None
            break
        is_tried = True
        if one := _try(plan, change, p):
            found.append(one)
    return tuple(sorted(found, key=lambda one: one.seconds))


def _try(plan: Plan, change: Change, p: Prediction) -> _Tried | None:
    """The changed layout; None if it has faults, cannot run where the plan can, does not fit, or is no faster."""
    try:
        changed = compile_spec(change.spec, world_size=plan.world_size)
    except PlanError:
        return None
    target = Target(layers=planned_layers(plan))
    doubts = [{(one.code, one.path) for one in (*each.warnings, *limits_of(each, target))} for each in (plan, changed)]
    if doubts[1] - doubts[0] or num_passes(changed) > 4 * MAX_PASSES:
        return None
    limit = p.hardware.memory_bytes / (1 + MEMORY_ERROR)
    if any(peak.total > max(limit, p.worst.total) for peak in peaks(changed, p.settings)):
        return None
    found = predict(changed, p.hardware, p.settings)
    if found.timeline is None or found.step_seconds >= _WORTH * p.step_seconds:
        return None
    return _Tried(change.words, found.step_seconds, found.timeline)


def _remedy(tried: tuple[_Tried, ...] | None, p: Prediction, helps: Callable[[Timeline], bool]) -> str:
    if tried is None:
        return (
            "use fewer stages, smaller microbatches, or `placement: colocated`; the plan is too large to try them here"
        )
    best = next((one for one in tried if helps(one.timeline)), None)
    if best is None:
        return "none of what was tried is faster: other micro_size, fewer stages, `placement: colocated`"
    return f"{best.words}: a step then takes {duration(best.seconds)} instead of {duration(p.step_seconds)}"


def _tight(plan: Plan, p: Prediction) -> Iterator[tuple[codes.Code, tuple[str, ...], str, str]]:
    """The fullest rank, if the error of the prediction could be more than the memory that it has to spare."""
    worst, limit = p.worst, p.memory_limit / (1 + MEMORY_ERROR)
    if worst.total <= limit:
        return
    rule = (
        f"memory of rank {worst.rank} ({worst.module} stage {worst.stage}) leaves room for an error of "
        f"{MEMORY_ERROR:.1%}, got {worst.total / GIB:.1f} of {p.memory_limit / GIB:g} GiB"
    )
    tried = remedies(plan, p.peaks, limit, p.settings, lambda other: price(other, p.hardware, p.settings))
    yield codes.TIGHT_MEMORY, ("modules", worst.module), rule, (tried or ("keep an eye on the first step",))[0]
