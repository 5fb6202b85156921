"""Law: on random DAGs the simulation equals megatron-core's own schedule function, run with recorded calls.

Branches differ in length, modules in dp, and durations from stage to stage and in each direction. Encoders may share
ranks. Durations are whole numbers, so that times are exact and can be compared with ==.
"""

from __future__ import annotations

from graphlib import CycleError
from itertools import pairwise
from random import Random

import pytest

from planner import Batch, Direction, Module, Parallel, Plan, Spec, compile_spec
from planner.base.axes import Axis
from planner.cost.simulation.durations import Durations
from planner.cost.simulation.schedule import Call, Stage, program
from planner.cost.simulation.simulate import DeadlockError, Sends, simulate
from planner.cost.simulation.timeline import Timeline

from .megatron import Megatron
from .schedule import Exchange, Pass, Recorder, Replayed, drawn_durations, record, replay

NUM_DAGS = 240
DP_FIRST = (Axis.TP, Axis.CP, Axis.PP, Axis.DP)


def drawn_plan(draw: Random) -> Plan:
    """A random DAG of 1 to 5 modules, with pp up to 4, dp 1, 2 or 4, and one rank per lane and stage."""
    before, after = draw.randint(0, 3), draw.choice([0, 0, 1])
    line = [f"m{i}" for i in range(before)] + ["language"] + [f"g{i}" for i in range(after)]
    at = before
    edges: dict[str, list[str]] = {}
    for i, name in enumerate(line):
        if i < at:
            edges[name] = draw.sample(line[i + 1 : at + 1], draw.choice([1, 1, min(2, at - i)]))
        elif i > at:
            edges.setdefault("language", []).append(name)
    parallels = {name: {"pp": draw.choice([1, 1, 2, 3, 4]), "dp": draw.choice([1, 1, 2, 4])} for name in line}
    names = line[:]
    draw.shuffle(names)
    offsets, end = {}, 0
    shared = draw.random() < 0.3 and before >= 2
    for name in names:
        offsets[name] = end
        if shared and name == "m1":
            continue
        end += parallels[name]["pp"] * parallels[name]["dp"]
    if shared:  # m1 is on the ranks of m0
        parallels["m1"], offsets["m1"] = parallels["m0"], offsets["m0"]
        edges["m0"] = [dst for dst in edges["m0"] if dst != "m1"] or ["language"]
    micro_size = 4
    modules = {
        name: Module(
            parallel=Parallel(
                **parallels[name], rank_offset=offsets[name], order=draw.choice([None, DP_FIRST]) or Parallel().order
            )
        )
        for name in names
    }
    if shared:
        modules["m1"] = Module(parallel=modules["m0"].parallel)
    batch = Batch(global_size=micro_size * draw.randint(1, 9), micro_size=micro_size, seq_length=1)
    return compile_spec(Spec(batch=batch, modules=modules, topology={src: tuple(dst) for src, dst in edges.items()}))


@pytest.mark.parametrize("edges", Sends)
@pytest.mark.parametrize("block", range(8))
def test_every_pass_of_every_rank_starts_and_ends_when_the_replay_says(
    megatron: Megatron, block: int, edges: Sends
) -> None:
    compared = deadlocks = passes = 0
    for seed in range(block * NUM_DAGS // 8, (block + 1) * NUM_DAGS // 8):
        draw = Random(seed)  # noqa: S311
        plan = drawn_plan(draw)
        durations = drawn_durations(draw, plan)
        hops = draw.choice(list(Sends))
        records = {rank: record(megatron, plan, rank) for rank in range(plan.world_size)}
        try:
            expected = replay(plan, records, durations, edges, hops)
        except CycleError:
            with pytest.raises(DeadlockError, match="waits"):
                simulate(plan, durations, edges=edges, hops=hops)
            deadlocks += 1
            continue
        found = simulate(plan, durations, edges=edges, hops=hops)
        for index, unit in enumerate(found.schedule.units):
            spans = [(one.start, one.end) for one in found.operations(index)]
            for rank in unit.ranks:
                assert spans == expected.passes[rank], (seed, str(unit), rank)
                assert found.in_flight[index] == expected.in_flight[rank], (seed, str(unit), rank)
                passes += len(spans)
        assert found.makespan == max(spans[-1][1] for spans in expected.passes.values())
        assert_path_is_critical(found, expected)
        compared += 1
    assert compared >= 10
    assert passes > 100 * compared / 2
    assert deadlocks == 0 or edges is Sends.WAITED


def assert_path_is_critical(found: Timeline, expected: Replayed) -> None:
    """The path has no gap, and nothing on it could take longer without making the step longer."""
    path = found.path
    assert all(one.end == other.start for one, other in pairwise(path))
    assert not path or (path[0].start, path[-1].end) == (0.0, found.makespan)
    slacks = {
        (one.stage, one.direction, one.microbatch): min(expected.slacks[rank][number] for rank in unit.ranks)
        for index, unit in enumerate(found.schedule.units)
        for number, one in enumerate(found.operations(index))
    }
    passes = [segment for segment in path if isinstance(segment.where, Stage)]
    assert passes
    assert all(slacks[one.where, one.direction, one.microbatch] == 0 for one in passes)


def test_waited_sends_over_unequal_branches_are_a_deadlock(megatron: Megatron) -> None:
    """A branch of one stage stands beside one of three: megatron-core's own bridges stop, posted sends do not."""
    stages = {"language": 1, "images": 3, "audio": 1}
    plan = compile_spec(
        Spec(
            batch=Batch(global_size=8, micro_size=1, seq_length=1),
            modules={name: Module(parallel=Parallel(pp=pp)) for name, pp in stages.items()},
        )
    )
    records = {rank: record(megatron, plan, rank) for rank in range(plan.world_size)}
    durations = Durations.uniform(plan)
    with pytest.raises(CycleError):
        replay(plan, records, durations, Sends.WAITED, Sends.WAITED)
    with pytest.raises(DeadlockError) as caught:
        simulate(plan, durations, edges=Sends.WAITED)
    assert set(caught.value.waiting) == {
        "audio stage 0 waits to hand activations of microbatch 2 to language stage 0",
        "language stage 0 waits to hand gradients of microbatch 0 to audio stage 0",
    }
    assert replay(plan, records, durations, Sends.POSTED, Sends.WAITED).in_flight[4] == 4
    assert simulate(plan, durations).makespan == (8 + 4 - 1) * 3.0


def test_the_program_is_megatrons(megatron: Megatron) -> None:
    """A middle stage's program is what the schedule does, call by call, for any numbers of stages and microbatches."""
    compared = 0
    for num_stages in range(2, 6):
        for num_microbatches in range(1, 8):
            spec = Spec(
                batch=Batch(global_size=num_microbatches, micro_size=1, seq_length=1),
                modules={"language": Module(parallel=Parallel(pp=num_stages))},
            )
            plan = compile_spec(spec)
            for rank in range(num_stages):
                steps = [
                    (call, (fwd if call is not Call.BACKWARD else -1) >= 0, bwd >= 0)
                    for call, fwd, bwd in program(num_stages - rank - 1, num_microbatches)
                    if not (call is Call.UPSTREAM and rank == 0)
                    and not (call is Call.DOWNSTREAM and rank == num_stages - 1)
                ]
                assert steps == [_step(item, rank) for item in record(megatron, plan, rank)]
                compared += len(steps)
    assert compared > 1500


def _step(item: Pass | Exchange, rank: int) -> tuple[Call, bool, bool]:
    if isinstance(item, Pass):
        forward = item.direction is Direction.FORWARD
        return (Call.FORWARD if forward else Call.BACKWARD), forward, not forward
    wires = (*item.sends, *item.receives)
    upstream = any((wire[1] if wire[4] is Direction.FORWARD else wire[0]) == rank for wire in wires)
    ways = {wire[4] for wire in wires}
    return (
        Call.UPSTREAM if upstream else Call.DOWNSTREAM,
        Direction.FORWARD in ways,
        Direction.BACKWARD in ways,
    )


def test_the_recorder_is_used(megatron: Megatron) -> None:
    """A record without calls would agree with anything."""
    assert not Recorder().found
    plan = drawn_plan(Random(0))  # noqa: S311
    assert all(record(megatron, plan, rank) for rank in range(plan.world_size))
