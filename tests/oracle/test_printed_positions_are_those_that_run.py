"""What `mimo plan --rank` prints of a rank's place in the pipeline is what the executor's schedule does on that rank.

200 drawn plans, modules on shared ranks among them. The executor's own communicator and model run on megatron-core's
schedule function, recorded: the forward passes before the first backward pass are the warm-up, and the longest chain of
passes that hand a microbatch on is the pipeline.
"""

from __future__ import annotations

import re
import warnings
from importlib import import_module
from random import Random

import pytest

from planner import Direction, Plan
from planner.render.rank_view import rank_view
from planner.render.style import Style

from .executors_schedule import Computed, Event, record
from .megatron import Megatron
from .test_simulation_equals_the_executors_schedule import drawn_plan

NUM_PLANS = 200


@pytest.fixture(scope="module", autouse=True)
def executor(megatron: Megatron) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # megatron-core's own, while it is imported
        import_module("executor.model.model")


def warmup_that_ran(events: list[Event], num_modules: int) -> int:
    """Forward passes before the first backward pass; a pass computes each of the rank's modules once."""
    computed = [event.way for event in events if isinstance(event, Computed)]
    return computed.index(Direction.BACKWARD) // num_modules


def printed(plan: Plan, rank: int) -> tuple[int, int, int, dict[str, tuple[int, int]]]:
    """(position, stages, warm-up) and each module's (stage, number of stages), as the terminal shows them."""
    text = rank_view(plan, rank, Style(120))
    place = re.search(r"position (\d+) of (\d+), (\d+) warm-up", text)
    assert place
    position, total, warmup = map(int, place.groups())
    document = import_module("planner.render.rank_view").view_document(plan.view(rank))
    assert (document["position"], document["total_stages"]) == (position, total)
    assert document["num_warmup_microbatches"] == warmup
    stages = {name: (one["stage"], one["num_stages"]) for name, one in document["modules"].items()}
    return position, total, warmup, stages


@pytest.mark.parametrize("block", range(4))
def test_stage_position_and_warm_up(megatron: Megatron, block: int) -> None:
    compared = shared = 0
    for seed in range(1000 + block * NUM_PLANS // 4, 1000 + (block + 1) * NUM_PLANS // 4):
        plan = drawn_plan(Random(seed))  # noqa: S311
        if plan.pipeline.cycle:
            continue  # no schedule runs it
        num_microbatches = plan.batch.num_microbatches
        for rank in range(plan.world_size):
            events = record(megatron, plan, rank)
            position, total, warmup, stages = printed(plan, rank)
            ran = {event.stage.module: event.stage.index for event in events if isinstance(event, Computed)}
            assert {name: stage for name, (stage, _) in stages.items()} == ran, (seed, rank)
            last_first = warmup_that_ran(events, len(ran))
            # 1F1B computes one more microbatch forward before its first backward, if there is one.
            assert last_first == min(warmup + 1, num_microbatches), (seed, rank)
            assert warmup == total - position - 1
        shared += bool(plan.pipeline.shared)
        compared += 1
    assert compared >= 30
    assert shared >= 10
