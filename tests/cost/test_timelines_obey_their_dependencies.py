"""Law: every timeline obeys its dependencies, for drawn plans and durations and both ways of sending."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from planner import Direction, Plan
from planner.cost.simulation.durations import Durations
from planner.cost.simulation.schedule import Hop, Stage, schedule_of
from planner.cost.simulation.simulate import DeadlockError, Sends, simulate
from planner.cost.simulation.timeline import Operation, Timeline
from tests.strategies import Case, cases, planned, simple

F, B = Direction


@st.composite
def runs(draw: st.DrawFn) -> tuple[Plan, Durations, Timeline]:
    """A plan that the schedule can run, durations that are whole numbers, and the timeline."""
    case: Case = draw(cases(max_modules=4))
    plan = case.plan()
    times = st.integers(0, 9).map(float)
    durations = Durations.of(plan, lambda *_: draw(times), lambda _: draw(times), lambda *_: draw(times))
    try:
        found = simulate(plan, durations, hops=draw(st.sampled_from(Sends)))
    except DeadlockError:
        shares = any(len(unit.stages) > 1 for unit in schedule_of(plan).units)
        assert shares, "posted sends over edges never stop a layout whose ranks hold one stage each"
        assume(False)
    return plan, durations, found


@given(runs())
def test_every_stage_passes_every_microbatch_once_each_way(run: tuple[Plan, Durations, Timeline]) -> None:
    plan, durations, found = run
    for index, unit in enumerate(found.schedule.units):
        operations = list(found.operations(index))
        expected = {
            (stage, way, k) for stage in unit.stages for way in Direction for k in range(plan.batch.num_microbatches)
        }
        assert len(operations) == len(expected)
        assert {(one.stage, one.direction, one.microbatch) for one in operations} == expected
        assert all(one.seconds == durations.passes[one.stage, one.direction] for one in operations)
        assert all(one.end <= other.start for one, other in pairwise(operations)), "one thing at a time"


@given(runs())
def test_nothing_starts_before_what_it_needs(run: tuple[Plan, Durations, Timeline]) -> None:
    _, durations, found = run
    at = {
        (one.unit, one.stage, one.direction, one.microbatch): one
        for unit in range(len(found.tracks))
        for one in found.operations(unit)
    }
    checked = 0
    for hop, first, then in _dependencies(found, at):
        src, dst = hop.src.module, hop.dst.module
        seconds = durations.edges[src, dst, then.direction] if hop.is_edge else durations.hops[hop.src]
        assert then.start >= first.end + seconds
        checked += 1
    assert checked == 2 * len(found.schedule.hops) * found.schedule.num_microbatches


def _dependencies(
    found: Timeline, at: dict[tuple[int, Stage, Direction, int], Operation]
) -> Iterator[tuple[Hop, Operation, Operation]]:
    for hop in found.schedule.hops:
        for k in range(found.schedule.num_microbatches):
            yield hop, at[hop.units[0], hop.src, F, k], at[hop.units[1], hop.dst, F, k]
            yield hop, at[hop.units[1], hop.dst, B, k], at[hop.units[0], hop.src, B, k]


@given(runs())
def test_units_hold_every_rank_once_and_their_stages(run: tuple[Plan, Durations, Timeline]) -> None:
    plan, _, found = run
    ranks = [rank for unit in found.schedule.units for rank in unit.ranks]
    assert sorted(ranks) == list(range(plan.world_size))
    for unit in found.schedule.units:
        for rank in unit.ranks:
            view = plan.view(rank)
            assert {Stage(name, stage.stage) for name, stage in view.stages.items()} == set(unit.stages)
            if plan.pipeline.hops == plan.edges:  # a module on the ranks of its neighbours adds no stage
                assert (unit.position, unit.num_warmup) == (view.position, view.num_warmup_microbatches)


@given(runs())
def test_each_instant_of_a_unit_is_work_or_a_named_wait(run: tuple[Plan, Durations, Timeline]) -> None:
    _, _, found = run
    for index in range(len(found.tracks)):
        waits = found.waits(index)
        assert all(seconds > 0 for seconds in waits.values())
        assert found.busy[index] + sum(waits.values()) == found.makespan
    worked = sum(b * len(u.ranks) for b, u in zip(found.busy, found.schedule.units, strict=True))
    total = found.makespan * found.schedule.world_size
    assert found.bubble == (pytest.approx(1 - worked / total) if total else 0.0)


@given(runs())
def test_the_critical_path_fills_the_step(run: tuple[Plan, Durations, Timeline]) -> None:
    _, _, found = run
    assert sum(segment.seconds for segment in found.path) == found.makespan
    assert all(one.end == other.start for one, other in pairwise(found.path))


def test_units_are_linked_where_samples_cross() -> None:
    """Encoders stand on ranks of language's first stage alone, and units of other lanes receive over the edge."""
    plan = planned(simple(language={"dp": 2, "pp": 2, "rank_offset": 0}, images={"rank_offset": 0}))
    schedule = schedule_of(plan)
    assert [str(unit) for unit in schedule.units] == [
        "images stage 0 + language stage 0",
        "language stage 0",
        "language stage 1",
    ]
    crossing = [hop.units for hop in schedule.hops if hop.is_edge]
    assert crossing == [(0, 0), (0, 1)]
    assert simulate(plan, Durations.uniform(plan)).makespan > 0
