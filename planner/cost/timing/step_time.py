"""Seconds of one step when nobody looks at its timeline: a fit asks for them ten thousand times.

The simulation (simulate.py) has the answer. For a single pipeline whose last stage sets the pace there is a closed form
as well. If all hops take equally long, and no other stage with its hop takes longer than the last stage, the last stage
waits for nothing but its own hop once it has begun. A step is then one microbatch through all stages and back, and for
each further microbatch the work of the last stage and the exchange before it. A test compares the two.
"""

from __future__ import annotations

from ...plan import Plan
from ..simulation.durations import Durations
from ..simulation.simulate import simulate
from .timing import Rates
from .workload import Workload, durations_of, longest_update, update_seconds


def step_seconds(work: Workload, rates: Rates) -> float:
    """Seconds of one step, the update included.

    Raises:
        DeadlockError: the schedule stops for good.
    """
    durations = durations_of(work, rates)
    known = closed_form(work.plan, durations)
    pipeline = simulate(work.plan, durations).makespan if known is None else known
    return interleaved(work, durations, pipeline) + longest_update(work, update_seconds(work, rates))


def closed_form(plan: Plan, durations: Durations) -> float | None:
    """Seconds from the first forward to the last backward pass; None if the closed form does not hold."""
    if len(plan.modules) > 1:
        return None
    each = stage_sums(durations)
    hop, *others = set(durations.hops.values()) or {0.0}
    if others or any(seconds + hop > each[-1] for seconds in each[:-1]):
        return None
    first = sum(each) + 2 * hop * (len(each) - 1)
    further = each[-1] + (hop if len(each) > 1 else 0.0)
    return first + (plan.batch.num_microbatches - 1) * further


def stage_sums(durations: Durations) -> list[float]:
    """Seconds of one microbatch, forward and backward together, on each stage in order."""
    found: dict[object, float] = {}
    for (stage, _), seconds in durations.passes.items():
        found[stage] = found.get(stage, 0.0) + seconds
    return list(found.values())


def interleaved(work: Workload, durations: Durations, pipeline: float) -> float:
    """Seconds of the pipeline if each rank holds `stages_per_rank` stages of an interleaved schedule.

    Interleaving divides by that number all but the work of the slowest stage (Narayanan et al. 2021, section 2.2). It
    is known of measured runs only: the simulated schedule has one stage per rank.

    Args:
        work: the work of the plan.
        durations: its durations.
        pipeline: seconds of the simulated pipeline.
    """
    num_stages = work.settings.stages_per_rank
    if num_stages == 1:
        return pipeline
    busy = work.plan.batch.num_microbatches * max(stage_sums(durations))
    return busy + (pipeline - busy) / num_stages
