"""What benchmarks run beside the executor's own code, once and small, so that it stays runnable as that changes."""

from __future__ import annotations

import pytest

from tests.executor.jobs import ranks, specs

PLAN = specs.plan({"tp": 2}, {"dp": 2}, micro_size=2, fixed=True)


@pytest.mark.parametrize("stock", [False, True], ids=["own", "stock"])
def test_a_training_step_over_either_bridge(stock: bool) -> None:
    seconds = ranks.run(PLAN.world_size, "benchmarks.start_up_jobs:step", PLAN.to_json(), stock, timeout=120)
    assert min(seconds) > 0


@pytest.mark.parametrize("way", ["ours", "theirs"])
def test_groups_opened_either_way(way: str) -> None:
    assert (
        len(ranks.run(PLAN.world_size, f"benchmarks.start_up_jobs:{way}", PLAN.to_json(), timeout=120))
        == PLAN.world_size
    )


def test_seconds_inside_the_checks() -> None:
    """Every call of the checks is timed, in every step, and the benchmark knows the model's size."""
    found = ranks.run(PLAN.world_size, "benchmarks.checks_jobs:train", PLAN.to_json(), 3, 2, timeout=120)
    assert all(len(rank["steps"]) == len(rank["inside"]) == 3 for rank in found)
    assert all(rank["sizes"] for rank in found)
    assert all(rank["calls"].keys() == {"before_step", "before_update", "after_update"} for rank in found)
