"""Law: every lane takes its own samples of one global microbatch, whatever the rows of a tensor stand for."""

from __future__ import annotations

import pytest

from planner import Plan
from tests.executor.jobs import ranks, specs

LAYOUTS = {
    "fan_out": specs.plan({"dp": 2}, {}),
    "equal": specs.plan({"dp": 2}, {"dp": 2}),
    "together": specs.plan({"tp": 2}, {"dp": 2}, fixed=True, placement="colocated"),
}


def test_a_nested_batch_is_cut_for_a_lane() -> None:
    (found,) = ranks.run(1, "provider_checks:slices")
    assert found["ids"] == found["mrope"] == [1, 2, 3]
    assert found["captions"] == ["b", "c", "d"]
    assert found["grid"] == [1, 3]
    assert found["pixels"] == [1, 3]
    assert found["scale"] == 0.5
    assert "packing_kwargs: cu_seqlens_q, max_seqlen_q describe the packed sequences of one lane" in found["packed"]
    assert "build them from the lane's own slice" in found["packed"]
    assert "attention_mask: dim 0 has the microbatch's 4 samples, got 1 row; if all" in found["shared_row"]
    assert "num_items" not in found["shared_row"]
    assert "batch key pixels: dim 0 has the microbatch's 4 samples, got 5 rows" in found["unknown_rows"]
    assert "num_items['visual'] has 4 samples and 4 rows in all, got 4 and 5" in found["wrong_counts"]
    assert "batch key modality_inputs.images.vit.inputs: rows vary, got 4 rows" in found["unnamed"]


def test_inputs_given_as_a_list_reach_the_lane_that_has_them() -> None:
    (found,) = ranks.run(1, "provider_checks:listed_images")
    assert found == [["meta", "meta"], None]


@pytest.mark.parametrize("name", LAYOUTS)
def test_bridge_2956_modules_meet_the_same_samples(name: str) -> None:
    """Megatron-Bridge #2956, #5525: sampled apart, modules met tokens and features of different samples."""
    plan: Plan = LAYOUTS[name]
    (microbatches,) = ranks.run(1, "provider_checks:samples_met", plan.to_json())
    for met in microbatches:
        (drawn,) = met["drawn"]
        for module in ("language", "images"):
            grid = plan.module(module).grid
            lanes = [met[module][rank - grid.rank_offset] for rank in grid_lanes(plan, module)]
            items = 1 if module == "language" else None
            wanted = [index for index in drawn for _ in range(index % 3 if items is None else items)]
            assert [index for lane in lanes for index in lane] == wanted


def grid_lanes(plan: Plan, module: str) -> list[int]:
    """One rank of each lane, in the order of lanes."""
    slices = {plan.batch.slice(module, rank).start: rank for rank in plan.module(module).ranks}
    return [slices[start] for start in sorted(slices)]


def test_bridge_3503_one_order_goes_on_where_it_stopped() -> None:
    (found,) = ranks.run(1, "provider_checks:orders")
    assert sorted(found["two_epochs"][:10]) == sorted(found["two_epochs"][10:]) == list(range(10))
    assert found["two_epochs"][:10] != found["two_epochs"][10:]
    assert found["resumed"] == found["two_epochs"][8:]
    assert found["other_seed"] != found["two_epochs"]
    assert found["plain"] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
