"""Seconds per stage -> seconds per step: one interface, `makespan`, from durations to the end of the last backward.

Every stage runs megatron's 1F1B order: total - position - 1 forward passes first, then forward and backward in turn.
A pass starts when its stage is free and its inputs have arrived. The answer is exact for that order; what is left out
is that a receiver holds its sender up. Modules on the same ranks run one after the other, microbatch by microbatch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import attrs

from ..plan import Plan

Unit = tuple[str, int]  # module and stage


@attrs.frozen(kw_only=True)
class Times:
    """Seconds of one microbatch.

    Attributes:
        passes: (forward, backward) of each stage.
        hops: of one transfer between two stages of a module.
        edges: of one microbatch over an edge, either direction.
    """

    passes: Mapping[Unit, tuple[float, float]]
    hops: Mapping[str, float]
    edges: Mapping[tuple[str, str], float]


def makespan(plan: Plan, times: Times, num_microbatches: int) -> float:
    """Seconds from the first forward pass to the last backward pass of a step, without the update."""
    if _shares_ranks(plan):
        once = sum(sum(passes) for passes in times.passes.values()) + 2 * sum(times.edges.values())
        return once * num_microbatches + _own_bubbles(plan, times)
    known = _last_is_slowest(plan, times, num_microbatches)
    return _replayed(plan, times, num_microbatches) if known is None else known


def _last_is_slowest(plan: Plan, times: Times, num_microbatches: int) -> float | None:
    """The answer in closed form for one module whose last stage sets the pace; None elsewhere.

    The last stage never waits once it has begun, if every other stage and its two hops take no longer than it does:
    then a step is one microbatch through all stages, and the last stage's work on the others.
    """
    if len(plan.modules) > 1:
        return None
    (module,) = plan.modules
    each = [sum(times.passes[module.name, stage]) for stage in range(module.num_stages)]
    way = 2 * times.hops[module.name]
    if any(seconds + way > each[-1] for seconds in each[:-1]):
        return None
    return sum(each) + way * (len(each) - 1) + (num_microbatches - 1) * each[-1]


def _replayed(plan: Plan, times: Times, num_microbatches: int) -> float:
    """The answer by going through all passes."""
    programs = {
        (module.name, stage): _program(
            plan.pipeline.num_stages - plan.pipeline.first[module.name] - stage - 1, num_microbatches
        )
        for module in plan.modules
        for stage in range(module.num_stages)
    }
    return _run(programs, _links(plan, times), times.passes)


def _shares_ranks(plan: Plan) -> bool:
    ends = sorted((module.grid.rank_offset, module.grid.end) for module in plan.modules)
    return any(start < end for (_, end), (start, _) in pairwise(ends))


def _own_bubbles(plan: Plan, times: Times) -> float:
    """Stages of a shared module are on different ranks: a step costs the slowest stage each time, and the others once.

    The sum over all stages is subtracted again for every microbatch but the first.
    """
    extra = 0.0
    num = plan.batch.num_microbatches
    for module in plan.modules:
        each = [sum(times.passes[module.name, stage]) for stage in range(module.num_stages)]
        extra += (num - 1) * (max(each) - sum(each)) + 2 * times.hops[module.name] * (module.num_stages - 1)
    return extra


def _program(num_warmup: int, num_microbatches: int) -> list[tuple[int, int]]:
    """(direction, microbatch) in the order of 1F1B; direction 0 is forward."""
    warmup = min(num_warmup, num_microbatches)
    order = [(0, i) for i in range(warmup)]
    for i in range(num_microbatches - warmup):
        order += [(0, warmup + i), (1, i)]
    return order + [(1, i) for i in range(num_microbatches - warmup, num_microbatches)]


def _links(plan: Plan, times: Times) -> dict[Unit, list[tuple[Unit, float]]]:
    """Per stage, the stages whose output it takes, and the seconds of the way."""
    found: dict[Unit, list[tuple[Unit, float]]] = {}
    for module in plan.modules:
        for stage in range(1, module.num_stages):
            found.setdefault((module.name, stage), []).append(((module.name, stage - 1), times.hops[module.name]))
    for src, dst in plan.edges:
        last = plan.module(src).num_stages - 1
        found.setdefault((dst, 0), []).append(((src, last), times.edges[src, dst]))
    return found


def _run(
    programs: dict[Unit, list[tuple[int, int]]],
    links: dict[Unit, list[tuple[Unit, float]]],
    passes: Mapping[Unit, tuple[float, float]],
) -> float:
    """Walk all programs; a unit stops where an input is not there yet, and goes on when it is."""
    needs: dict[tuple[Unit, int], list[tuple[Unit, float]]] = {}
    feeds: dict[tuple[Unit, int], list[Unit]] = {}
    for dst, sources in links.items():
        for src, seconds in sources:
            needs.setdefault((dst, 0), []).append((src, seconds))
            needs.setdefault((src, 1), []).append((dst, seconds))
            feeds.setdefault((src, 0), []).append(dst)
            feeds.setdefault((dst, 1), []).append(src)
    done: dict[tuple[Unit, int, int], float] = {}
    at = dict.fromkeys(programs, 0)
    free = dict.fromkeys(programs, 0.0)
    waiting = list(programs)
    while waiting:
        unit = waiting.pop()
        program = programs[unit]
        while at[unit] < len(program):
            direction, microbatch = program[at[unit]]
            inputs = needs.get((unit, direction), ())
            arrived = [(done.get((other, direction, microbatch)), seconds) for other, seconds in inputs]
            ready = free[unit]
            if any(time is None for time, _ in arrived):
                break
            for time, seconds in arrived:
                ready = max(ready, (time or 0.0) + seconds)
            free[unit] = done[unit, direction, microbatch] = ready + passes[unit][direction]
            at[unit] += 1
            waiting += feeds.get((unit, direction), ())
    assert all(at[unit] == len(programs[unit]) for unit in programs)  # noqa: S101  1F1B has no deadlock
    return max(free.values())
