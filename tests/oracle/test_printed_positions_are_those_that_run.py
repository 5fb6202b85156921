"""What `mimo plan --rank` prints of a rank's place in the pipeline is what the executor's schedule does on that rank.

200 drawn plans, modules on shared ranks among them. The executor's own communicator and model run on megatron-core's
schedule function, recorded: the forward passes before the first backward pass are the warm-up, and the longest chain of
ranks that hand a microbatch on is the pipeline.
"""

from __future__ import annotations

import re
import warnings
from graphlib import TopologicalSorter
from importlib import import_module
from itertools import count, islice
from random import Random

import pytest

from planner import Direction, Plan
from planner.render.overview import overview
from planner.render.rank_view import rank_view, view_document
from planner.render.style import Style

from .executors_schedule import Came, Computed, Event, record
from .megatron import Megatron
from .test_simulation_equals_the_executors_schedule import drawn_plan

NUM_PLANS = 200


@pytest.fixture(scope="module", autouse=True)
def executor(megatron: Megatron) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # megatron-core's own, while it is imported
        import_module("executor.model.model")


def forward_passes_before_a_backward(events: list[Event], num_modules: int) -> int:
    """Forward passes before the first backward pass. A pass computes each of the rank's modules once."""
    computed = [event.way for event in events if isinstance(event, Computed)]
    return computed.index(Direction.BACKWARD) // num_modules


def positions_that_ran(plan: Plan, records: dict[int, list[Event]]) -> dict[int, int]:
    """For each rank, the most ranks that a microbatch passes before it. Ranks that exchange within a pass are one."""
    wires = {event.wire for events in records.values() for event in events if isinstance(event, Came)}
    forward = [wire for wire in wires if wire[-1] is Direction.FORWARD]
    ranks_of = {module.name: frozenset(module.ranks) for module in plan.modules}
    passes = {rank: frozenset({rank}) for rank in records}
    for sender, receiver, src, dst, _ in forward:
        if src != dst and ranks_of[src] & ranks_of[dst]:
            merged = passes[sender] | passes[receiver]
            passes |= dict.fromkeys(merged, merged)
    before: dict[frozenset[int], set[frozenset[int]]] = {one: set() for one in passes.values()}
    for sender, receiver, src, dst, _ in forward:
        if src == dst or not ranks_of[src] & ranks_of[dst]:
            before[passes[receiver]].add(passes[sender])
    found: dict[frozenset[int], int] = {}
    for one in TopologicalSorter(before).static_order():
        found[one] = max((found[other] + 1 for other in before[one]), default=0)
    return {rank: found[passes[rank]] for rank in records}


def printed(plan: Plan, rank: int) -> tuple[int, int, int, dict[str, tuple[int, int]]]:
    """(position, stages, warm-up) and each module's (stage, number of stages), as the terminal shows them."""
    text = rank_view(plan, rank, Style(120))
    place = re.search(r"position (\d+) of (\d+), (\d+) warm-up", text)
    assert place
    position, total, warmup = map(int, place.groups())
    document = view_document(plan.view(rank))
    assert (document["position"], document["total_stages"]) == (position, total)
    assert document["num_warmup_microbatches"] == warmup
    stages = {name: (one["stage"], one["num_stages"]) for name, one in document["modules"].items()}
    return position, total, warmup, stages


@pytest.mark.parametrize("block", range(4))
def test_stage_position_and_warm_up(megatron: Megatron, block: int) -> None:
    drawn = (drawn_plan(Random(seed)) for seed in count(1000 * (block + 1)))  # noqa: S311
    plans = (plan for plan in drawn if not plan.pipeline.cycle)  # no schedule runs a plan with a cycle
    shared = 0
    for plan in islice(plans, NUM_PLANS // 4):
        records = {rank: record(megatron, plan, rank) for rank in range(plan.world_size)}
        ran = positions_that_ran(plan, records)
        num_stages = max(ran.values()) + 1
        assert re.search(rf"pipeline: {num_stages} stages? ", overview(plan, "", Style(120))), plan
        for rank, events in records.items():
            position, total, warmup, stages = printed(plan, rank)
            computed = {event.stage.module: event.stage.index for event in events if isinstance(event, Computed)}
            assert {name: stage for name, (stage, _) in stages.items()} == computed, (plan, rank)
            assert {name: num for name, (_, num) in stages.items()} == {
                name: plan.module(name).num_stages for name in computed
            }
            assert (position, total) == (ran[rank], num_stages), (plan, rank)
            # 1F1B computes one more microbatch forward before its first backward, if there is one.
            num_before = forward_passes_before_a_backward(events, len(computed))
            assert num_before == min(warmup + 1, plan.batch.num_microbatches), (plan, rank)
        shared += bool(plan.pipeline.shared)
    assert shared >= 10
