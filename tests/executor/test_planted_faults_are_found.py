"""A check that passes because nothing was checked is worse than none: each deliberate fault must be found."""

from __future__ import annotations

import pytest
import ranks
import specs
from parity import measure

PLAN = specs.plan({"tp": 2, "dp": 2}, {"dp": 2}, fixed=True)


def test_two_swapped_groups_fail_check() -> None:
    """On one rank only: the others wait for it in other groups, so the ranks stop or the sums differ."""
    try:
        results = ranks.run(PLAN.world_size, "jobs:check", PLAN.to_json(), "swapped_groups", timeout=30)
    except ranks.RankError:
        return
    assert any("group" in fault for result in results for fault in result["faults"])


def test_a_shifted_slice_fails_check() -> None:
    results = ranks.run(PLAN.world_size, "jobs:check", PLAN.to_json(), "shifted_slice")
    found = [fault for result in results for fault in result["faults"]]
    assert any("bridge images->language, forward" in fault for fault in found)


@pytest.mark.parametrize("fault", ["unscaled_module", "shifted_slice"])
def test_a_fault_breaks_parity(fault: str) -> None:
    parity = measure(PLAN, fault=fault)
    assert parity.weights > 1e-4
