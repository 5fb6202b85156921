"""Law: every planted fault is found. A check that passes because nothing was checked would be worse than none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.executor.jobs import ranks, specs
from tests.executor.jobs.parity import measure

PLAN = specs.plan({"tp": 2, "dp": 2}, {"dp": 2}, fixed=True)


def test_two_swapped_groups_fail_check_by_name() -> None:
    """Rank 0 alone takes its dp group for its tp group, and hears rank 2 in place of rank 1."""
    found = ranks.run(PLAN.world_size, "jobs:check", PLAN.to_json(), "swapped_groups", timeout=60)
    assert found[0]["faults"] == [
        "rank 0: tp group 0 of language is (0, 1) in the plan, but (0, 2) answer",
        "rank 0: dp group 0 of language is (0, 2) in the plan, but (0, 1) answer",
    ]
    assert all(result["faults"] == [] for result in found[1:])


def test_two_groups_in_swapped_order_on_one_rank_end_in_an_error(tmp_path: Path) -> None:
    """The groups are equally large. Their members look for rank 0 under other names, give up in time, and say why."""
    file = tmp_path / "plan.json"
    file.write_text(PLAN.to_json())
    outcomes = ranks.run(
        PLAN.world_size, "jobs:command_with_swapped_order", "check", str(file), "--timeout", "4", timeout=40
    )
    assert [code for code, _, _ in outcomes] == [1] * PLAN.world_size
    (message,) = [err for _, _, err in outcomes if err]
    assert "lost another rank, which died or did not come within 0:00:04, at " in message
    assert "rank 0 creates other groups than the plan says" in message


def test_members_are_gathered_where_nobody_is_asked_directly() -> None:
    """The way of NCCL, tried with gloo: the same groups are found."""
    found = ranks.run(PLAN.world_size, "jobs:groups_heard_by_gathering", PLAN.to_json(), timeout=60)
    assert found == [["all as planned", "(0, 2) answer"], *[["all as planned"] * 2] * (PLAN.world_size - 1)]


def test_a_shifted_slice_fails_check() -> None:
    results = ranks.run(PLAN.world_size, "jobs:check", PLAN.to_json(), "shifted_slice")
    found = [fault for result in results for fault in result["faults"]]
    assert any("bridge images->language, forward" in fault for fault in found)


def test_a_gradient_of_the_wrong_size_fails_check() -> None:
    """The right samples come back, twice as large, which only the test of the adjoint finds."""
    results = ranks.run(PLAN.world_size, "jobs:check", PLAN.to_json(), "doubled_gradient")
    (said,) = [fault for result in results for fault in result["faults"]]
    assert said.startswith("bridge images->language: <A x, y> = ")
    assert said.endswith("not the adjoint")


@pytest.mark.parametrize("fault", ["unscaled_module", "shifted_slice"])
def test_a_fault_breaks_parity(fault: str) -> None:
    """A module is scaled by another rule (Megatron-Bridge #5555, #4959), or has the wrong samples (#2956, #5525)."""
    parity = measure(PLAN, fault=fault)
    assert parity.weights > 1e-4
