"""Law: a simulated timeline equals the closed form, if there is one."""

from __future__ import annotations

import pytest

from planner import Batch, Direction, Module, Parallel, Plan, Spec, compile_spec
from planner.base.frozenmap import FrozenMap
from planner.cost.simulation.durations import Durations
from planner.cost.simulation.schedule import Stage, in_flight
from planner.cost.simulation.simulate import DeadlockError, Sends, simulate
from planner.cost.simulation.words import critical_path, duration, longest_waits
from tests.strategies import planned


def pipelined(num_microbatches: int, placement: str = "disjoint", **parallels: dict[str, int]) -> Plan:
    modules = {name: Module(parallel=Parallel(**sizes)) for name, sizes in parallels.items()}
    batch = Batch(global_size=4 * num_microbatches, micro_size=4, seq_length=4096)
    return planned(Spec(batch=batch, modules=modules, placement=placement))


@pytest.mark.parametrize("hops", Sends)
@pytest.mark.parametrize("p", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize("m", [1, 2, 3, 8, 33])
def test_the_bubble_of_a_uniform_pipeline_is_exact(p: int, m: int, hops: Sends) -> None:
    plan = pipelined(m, language={"pp": p, "tp": 2, "dp": 2})
    found = simulate(plan, Durations.uniform(plan, forward=3.0, backward=5.0), hops=hops)
    assert found.makespan == (m + p - 1) * 8.0
    assert found.bubble == pytest.approx((p - 1) / (m + p - 1), abs=1e-15)
    assert found.in_flight == tuple(min(m, p - stage) for stage in range(p))


def test_stages_of_several_modules_are_one_pipeline() -> None:
    """images (2 stages) -> language (3): five equal stages in a row, of 1 to 4 GPUs each, 14 in all."""
    plan = pipelined(9, images={"pp": 2, "dp": 4}, language={"pp": 3, "dp": 2})
    found = simulate(plan, Durations.uniform(plan))
    assert found.makespan == (9 + 5 - 1) * 3.0
    assert found.bubble == pytest.approx(4 / 13)


def test_transfers_lengthen_the_way_there_and_back() -> None:
    """One microbatch crosses two stages of a module and an edge, forward and backward."""
    plan = pipelined(1, images={"pp": 2}, language={})
    durations = Durations.of(plan, lambda *_: 10.0, lambda _: 1.0, lambda *_: 2.0)
    assert simulate(plan, durations).makespan == 6 * 10 + 2 * (1 + 2)


def test_colocated_modules_take_turns() -> None:
    """Every rank runs images, then language, then both backward in reverse. The gather takes time both ways."""
    plan = pipelined(5, "colocated", images={"dp": 4}, language={"dp": 2, "tp": 2})
    passes = {"images": 2.0, "language": 7.0}
    durations = Durations.of(plan, lambda stage, _: passes[stage.module], edge=lambda *_: 0.5)
    found = simulate(plan, durations)
    assert found.makespan == 5 * 2 * (2 + 0.5 + 7)
    assert [(one.stage.module, one.direction.value) for one in found.operations(0)][:4] == [
        ("images", "forward"),
        ("language", "forward"),
        ("language", "backward"),
        ("images", "backward"),
    ]
    assert found.bubble == pytest.approx(0.5 / 9.5)
    assert found.in_flight == (1,)
    assert longest_waits(found)[0].endswith("for activations to cross images->language on its own ranks")


def test_a_pass_of_several_modules_receives_before_it_and_sends_after_it() -> None:
    """Images are on the ranks of language's first stage, so that both run in one pass.

    That pass waits for audio, although images could begin before it, and for the next stage to take its output.
    """
    plan = pipelined(2, audio={"rank_offset": 2}, images={"rank_offset": 0}, language={"pp": 2, "rank_offset": 0})
    passes = {"audio": 10.0, "images": 2.0, "language": 7.0}
    gathers = {"audio": 0.0, "images": 0.5}
    durations = Durations.of(
        plan, lambda stage, _: passes[stage.module], lambda _: 1.0, lambda src, _dst, _way: gathers[src]
    )
    found = simulate(plan, durations)
    (unit,) = (index for index, unit in enumerate(found.schedule.units) if len(unit.stages) == 2)
    starts = [(str(one.stage), one.start) for one in found.operations(unit)][:4]
    assert starts == [
        ("images stage 0", 10.0),
        ("language stage 0", 12.5),
        ("images stage 0", 20.5),  # 19.5, and the way to the next stage
        ("language stage 0", 23.0),
    ]


def test_a_colocated_pipeline_of_several_stages_stops() -> None:
    """1F1B cannot run it: language's first stage needs the last one of images, on a rank that waits for language."""
    plan = pipelined(4, "colocated", images={"pp": 2}, language={"pp": 2})
    with pytest.raises(DeadlockError, match=r"images stage 1 \+ language stage 1 waits for .*; fix: give modules that"):
        simulate(plan, Durations.uniform(plan))
    for fixed in (
        pipelined(4, images={"pp": 2}, language={"pp": 2}),
        pipelined(4, "colocated", images={}, language={}),
    ):
        assert simulate(fixed, Durations.uniform(fixed)).makespan > 0


def test_a_short_branch_beside_a_long_one_holds_more() -> None:
    """Audio (1 stage) stands beside vision (4) before language (5): it holds 9 microbatches, not 6."""
    plan = pipelined(20, audio={}, vision={"pp": 4}, language={"pp": 5})
    found = simulate(plan, Durations.uniform(plan))
    assert dict(zip(map(str, found.schedule.units), found.in_flight, strict=True))["audio stage 0"] == 9
    assert in_flight(8, 20) == 9


def test_a_slow_stage_sets_the_pace() -> None:
    """From its first pass on, the slowest stage has no gap: m (f + b), and the way to it and back."""
    plan = pipelined(16, language={"pp": 4})
    slow = Stage("language", 2)
    found = simulate(plan, Durations.of(plan, lambda stage, _: 10.0 if stage == slow else 1.0))
    assert found.makespan == 16 * 20 + 2 * 2
    assert critical_path(found)[0] == "language stage 2 forward: 160 s (49%)"


def test_waits_are_named() -> None:
    plan = pipelined(8, images={}, language={})
    seconds = {"images": 0.010, "language": 0.041}
    found = simulate(plan, Durations.of(plan, lambda stage, _: seconds[stage.module]))
    assert longest_waits(found, 1) == ["images stage 0 waits 516 ms for gradients of language stage 0"]
    first = list(found.operations(0))[2]
    assert first.waited_for is not None
    assert str(first.waited_for.reason) == "gradients of language stage 0"
    assert first.waited_for.reason.on == Stage("language", 0)


def test_several_waits_before_one_operation_are_named_apart() -> None:
    """The second of three stages hands on its first microbatch (7 to 8), then waits for the slow first one's next."""
    plan = pipelined(3, language={"pp": 3})
    slow = Stage("language", 0)
    found = simulate(plan, Durations.of(plan, lambda stage, _: 5.0 if stage == slow else 1.0, lambda _: 1.0))
    second = list(found.operations(1))[1]
    assert [(str(wait.reason), wait.start, wait.end) for wait in second.waits] == [
        ("language stage 2 to take activations", 7.0, 8.0),
        ("activations of language stage 0", 8.0, 12.0),
    ]
    assert second.start == 12.0
    assert second.waited_for is not None
    assert str(second.waited_for.reason) == "activations of language stage 0"


def test_durations_in_words() -> None:
    assert [duration(s) for s in (0, 2e-7, 4e-5, 0.0125, 0.9996, 1.5, 1234.0)] == [
        "0 us",
        "0.2 us",
        "40 us",
        "12.5 ms",
        "1 s",
        "1.5 s",
        "1,234 s",
    ]


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_duration_that_is_no_time_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="that of language stage 0 is"):
        Durations(passes=FrozenMap(), hops=FrozenMap({Stage("language", 0): bad}), edges=FrozenMap())


def test_operations_are_counted_by_stages_and_not_by_gpus() -> None:
    batch = Batch(global_size=256 * 8, micro_size=8, seq_length=4096)
    modules = {
        "language": Module(parallel=Parallel(tp=8, pp=60, dp=8)),
        "images": Module(parallel=Parallel(tp=8, pp=4, dp=8)),
    }
    plan = compile_spec(Spec(batch=batch, modules=modules))
    assert plan.world_size == 4096
    found = simulate(plan, Durations.of(plan, lambda stage, way: 1.0 + (stage.index % 3) + (way is Direction.BACKWARD)))
    assert found.num_operations == 64 * 2 * 256
