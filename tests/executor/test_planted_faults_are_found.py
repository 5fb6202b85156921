"""Law: every planted fault is found. A check that passes because nothing was checked would be worse than none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.executor.jobs import ranks, specs
from tests.executor.jobs.parity import measure

PLAN = specs.plan({"tp": 2, "dp": 2}, {"dp": 2}, fixed=True)


def test_two_swapped_groups_fail_check_by_name() -> None:
    """Rank 0 alone takes its dp group for its tp group."""
    found = ranks.run(PLAN.world_size, "jobs:check", PLAN.to_json(), "swapped_groups", timeout=60)
    assert found[0]["faults"] == [
        "rank 0: tp group 0 of language is (0, 1) in the plan, but (0, 2) run it",
        "rank 0: dp group 0 of language is (0, 2) in the plan, but (0, 1) run it",
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


def test_a_stranger_in_a_group_fails_check() -> None:
    """Whatever torch says of its members. The one after it tells, for every group that the stranger is in."""
    found = ranks.run(PLAN.world_size, "jobs:groups_of_a_stranger", PLAN.to_json(), timeout=60)
    stranger = "rank 9 answers in the place of rank 0"
    assert f"rank 1: tp group 0 of language is (0, 1) in the plan, but {stranger}" in found[1]
    assert f"rank 2: dp group 0 of language is (0, 2) in the plan, but {stranger}" in found[2]
    assert all(line.endswith(stranger) for lines in found for line in lines)


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
