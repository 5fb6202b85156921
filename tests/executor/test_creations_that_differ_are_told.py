"""Law: what a rank has created is compared with the plan from its notes alone, and the first difference is named."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from executor.groups.creation_log import Creation, CreationLog, creations, explain
from planner import Plan
from planner.testing import PlanOf
from tests import EXAMPLES
from tests.executor.jobs import specs

PLAN = specs.plan({"tp": 2, "pp": 2, "dp": 2}, {"tp": 2, "dp": 2})


def of_rank(rank: int, plan: Plan = PLAN) -> list[Creation]:
    return list(creations(plan, plan.view(rank), backward=False))


def record_of(created: list[Creation], opening: str = "mimo/0") -> Any:
    """The notes as another rank reads them."""
    log = CreationLog()
    log.begin(opening)
    for creation in created:
        log.add(creation)
    return json.loads(json.dumps(log.record()))


@pytest.mark.parametrize("name", ["tiny_4rank", "llava_8gpu", "llava_8gpu_colocated", "vision_audio_8gpu"])
@pytest.mark.parametrize("backward", [False, True])
def test_ranks_that_follow_the_plan_differ_at_no_time(name: str, backward: bool, plan_of: PlanOf) -> None:
    """Not even while one of them is ahead of others, or has not begun."""
    plan = plan_of(EXAMPLES / f"{name}.yaml")
    whole = [list(creations(plan, plan.view(rank), backward=backward)) for rank in range(plan.world_size)]
    for so_far in range(max(map(len, whole)) + 1):
        records = {rank: record_of(each[: so_far if rank % 2 else len(each)]) for rank, each in enumerate(whole)}
        assert explain(records, plan) is None
    assert all(len({creation.place for creation in each}) == len(each) for each in whole)


@pytest.mark.parametrize("at", range(len(of_rank(1)) - 1))
def test_an_order_that_differs_is_told_with_rank_place_and_group(at: int) -> None:
    created = of_rank(1)
    first, second = created[at : at + 2]
    swapped = [*created[:at], second, first, *created[at + 2 :]]
    for so_far in range(at + 1, len(swapped) + 1):  # from the moment at which it happens
        found = explain({0: record_of(of_rank(0)), 1: record_of(swapped[:so_far]), 2: record_of([])}, PLAN)
        assert found is not None
        assert f"as group {at + 1} of its own {second}, instead of {first}." in found
        assert found.startswith("rank 1 creates other groups than the plan says")


def test_members_that_differ_are_told() -> None:
    created = of_rank(3)
    other = attrs.evolve(created[1], group=of_rank(0)[1].group)
    assert other.group.ranks != created[1].group.ranks
    found = explain({3: record_of([created[0], other])}, PLAN)
    assert found is not None
    assert "as group 2 of its own another one" in found
    assert str(created[1]) in found
    assert str(other) in found


def test_one_group_too_many_is_told() -> None:
    everything = list(creations(PLAN, PLAN.view(2), backward=True))
    found = explain({2: record_of([*everything, everything[0]])}, PLAN)
    assert found is not None
    assert f"rank 2 creates {len(everything) + 1} groups, and the plan gives it {len(everything)}" in found


def test_a_plan_that_some_ranks_opened_more_often_is_told() -> None:
    records = {rank: record_of(of_rank(rank), f"mimo/{int(rank == 2)}") for rank in range(4)}
    found = explain(records, PLAN)
    assert found is not None
    assert "mimo/0 on ranks 0-1, 3; mimo/1 on ranks 2" in found


def test_a_rank_that_has_not_begun_is_no_difference() -> None:
    records = {0: record_of(of_rank(0)), 1: json.loads(json.dumps(CreationLog().record()))}
    assert explain(records, PLAN) is None


def test_the_notes_stay_small_however_many_groups_there_are() -> None:
    """What is no longer published still counts: a difference before it is found, if no longer placed."""
    created = of_rank(0)
    many = created * 40
    log = CreationLog()
    for creation in many:
        log.add(creation)
    assert log.record()["count"] == len(many)
    assert len(json.dumps(log.record())) < 2000
    swapped = CreationLog()
    for creation in [created[1], created[0], *many[2:]]:
        swapped.add(creation)
    assert not set(swapped.record()["digests"]) & set(log.record()["digests"])
