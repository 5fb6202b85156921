"""Law: every planted fault is found. A check that passes because nothing was checked would be worse than none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from executor.checks.groups import check_groups, numbers_of
from planner.base.axes import MAX_SIZE
from tests.executor.jobs import ranks, specs
from tests.executor.jobs.parity import measure

PLAN = specs.plan({"tp": 2, "dp": 2}, {"dp": 2}, fixed=True)


def test_two_swapped_groups_fail_check_by_name() -> None:
    """Rank 0 alone takes its dp group for its tp group, and reduces with rank 2 in place of rank 1."""
    found = ranks.run(PLAN.world_size, "jobs:check", PLAN.to_json(), "swapped_groups", timeout=60)
    wrong = "with (count, sum, squares) ="
    assert found[0]["faults"] == [
        f"rank 0: tp group 0 of language is (0, 1) in the plan, {wrong} [2, 1, 1], but reduces to [2, 2, 4]",
        f"rank 0: dp group 0 of language is (0, 2) in the plan, {wrong} [2, 2, 4], but reduces to [2, 1, 1]",
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


def test_members_are_told_apart_where_their_squares_are_not() -> None:
    """Their counts, sums and sums of squares are equal. Hashes of the largest world fit the tensor that sums them."""
    one, other = numbers_of((0, 3, 4, 5)), numbers_of((1, 2, 3, 6))
    assert one[:3] == other[:3] == [4, 12, 50]
    assert one != other
    assert 2**38 < max(numbers_of((rank,))[3] for rank in range(1000)) <= (2**63 - 1) // MAX_SIZE


def test_other_members_of_equal_squares_fail_check() -> None:
    """The group of the plan is (0, 3, 4, 5), and the one that reduces is (1, 2, 3, 6)."""
    group = SimpleNamespace(kind="tp", index=0, owner="language", ranks=(0, 3, 4, 5))
    groups = mock.MagicMock(rank=3)
    groups.__iter__.return_value = [(group, None)]

    def reduced(numbers: torch.Tensor, group: None, async_op: bool) -> mock.Mock:
        numbers.copy_(torch.tensor(numbers_of((1, 2, 3, 6))))
        return mock.Mock(wait=lambda: None)

    with mock.patch.object(torch.distributed, "all_reduce", reduced):
        (fault,) = check_groups(groups, torch.device("cpu"))
    assert fault.endswith("= [4, 12, 50], but reduces to [4, 12, 50] of other ranks: their hashes differ")


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
