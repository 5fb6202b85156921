"""Seconds of one step, where nobody looks at its timeline: fits ask for it ten thousand times.

The simulation (simulate.py) is the answer. One pipeline whose last stage sets the pace has it in closed form: the last
stage never waits for anything but its own hop once it has begun, if every other stage with a hop takes no longer and
all hops take the same. Then a step is one microbatch through all stages and back, and for each other microbatch the
last stage's work and the exchange before it. A test compares the two.
"""

from __future__ import annotations

from ...plan import Plan
from ..simulation.durations import Durations
from ..simulation.simulate import simulate
from .timing import Rates
from .workload import Workload, durations_of, longest_update, update_seconds


def step_seconds(work: Workload, rates: Rates) -> float:
    """Seconds of one step. Raises DeadlockError."""
    durations = durations_of(work, rates)
    known = closed_form(work.plan, durations)
    span = simulate(work.plan, durations).makespan if known is None else known
    return interleaved(work, durations, span) + longest_update(work, update_seconds(work, rates))


def closed_form(plan: Plan, durations: Durations) -> float | None:
    """Seconds from the first forward to the last backward pass; None where no closed form is known."""
    if len(plan.modules) > 1:
        return None
    each = stage_sums(durations)
    hop, *others = set(durations.hops.values()) or {0.0}
    if others or any(seconds + hop > each[-1] for seconds in each[:-1]):
        return None
    there_and_back = sum(each) + 2 * hop * (len(each) - 1)
    pace = each[-1] + (hop if len(each) > 1 else 0.0)
    return there_and_back + (plan.batch.num_microbatches - 1) * pace


def stage_sums(durations: Durations) -> list[float]:
    """Forward and backward of one microbatch, per stage in order."""
    found: dict[object, float] = {}
    for (stage, _), seconds in durations.passes.items():
        found[stage] = found.get(stage, 0.0) + seconds
    return list(found.values())


def interleaved(work: Workload, durations: Durations, span: float) -> float:
    """The span of measured runs with several slices per rank: divided by them is what is not the slowest stage's work.

    Narayanan et al. 2021, 2.2; the simulated schedule has one slice.
    """
    slices = work.settings.stages_per_rank
    if slices == 1:
        return span
    busy = work.plan.batch.num_microbatches * max(stage_sums(durations))
    return busy + (span - busy) / slices
