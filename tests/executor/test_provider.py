"""Megatron-Bridge's names, on real ranks and real objects."""

from __future__ import annotations

from typing import Any

import pytest
import ranks
import specs

from planner import Plan

APART = specs.plan({"tp": 2, "pp": 2}, {"dp": 2}, fixed=True)
TOGETHER = specs.plan({"tp": 2}, {"dp": 2}, fixed=True, placement="colocated")


@pytest.mark.parametrize("plan", [APART, TOGETHER], ids=["apart", "together"])
def test_a_loop_of_ones_own(plan: Plan) -> None:
    results: list[dict[str, Any]] = ranks.run(plan.world_size, "provider_jobs:own_loop", plan.to_json())
    for rank, result in enumerate(results):
        role = plan.role(rank)
        assert result["called"] == ["first", "second", "post"]
        assert result["created"] == 0, "Bridge HEAD creates every group three times; here once, before"
        assert result["same_infra"]
        assert result["untouched"]
        assert result["participating"] == [module.name for module in plan.modules if module.name in role.modules]
        assert set(result["absent"]) == {module.name for module in plan.modules} - set(role.modules)
        assert result["ndim"]["images"] == 2
        assert result["sizes"] == (2, plan.module("language").num_stages)
        assert result["frozen"]
        assert result["in_grid"] == [rank in module.grid for module in plan.modules]
        assert result["norm"] > 0
    last = [result["loss"] for rank, result in enumerate(results) if plan.role(rank).is_last_stage("language")]
    assert last[0] > 0
    assert last == [last[0]] * len(last), "tp ranks of one lane report one loss"


def test_the_ready_provider() -> None:
    results = ranks.run(APART.world_size, "provider_jobs:llava", APART.to_json())
    for rank, result in enumerate(results):
        assert result["dtypes"] == {"torch.bfloat16"}
        assert result["wrapped"] == ["DistributedDataParallel"] * len(APART.role(rank).modules)
        assert all("FSDP is not for several modules" in text for text in result["refusals"])
        assert len(result["refusals"]) == 2


def test_colocated_bridges_are_the_models() -> None:
    for result in ranks.run(TOGETHER.world_size, "provider_jobs:colocated_config", TOGETHER.to_json()):
        assert result["topology"] == {"language": [], "images": ["language"]}
        assert result["edges"] == result["bridges"] == [("images", "language")]
        assert result["same_grids"]
        assert result["same_shapes"]
        assert result["same_dims"]


def test_bridge_2879_frozen_parameters_are_on_the_device() -> None:
    """Bridge #2879: frozen parameters stayed where they were made. `meta` stands for a GPU."""
    results = ranks.run(APART.world_size, "provider_jobs:devices", APART.to_json())
    for rank, result in enumerate(results):
        assert result["made"] == {"cpu"}
        assert result["all"] == {"meta"}
        assert (result["num_frozen"] > 0) == ("images" in APART.role(rank).modules)
        assert result["frozen"] <= {"meta"}


def test_what_needs_no_ranks() -> None:
    result = ranks.run(1, "provider_checks:without_ranks", APART.to_json())[0]
    assert "no interleaved schedule" in result["virtual"]
    assert "Megatron-LM #5285" in result["overlap"]
    assert "one random stream for all of them" in result["dropout"]  # defect g
    assert "only modules on the same ranks" in result["apart"]
    assert "ranks 6-7 have no module" in result["stub"]
    assert "but the plan says (8, 4, 2)" in result["contract"]
    assert result["contract_holds"]
    assert result["slices"] == {"ids": [2, 3], "mrope": [2, 3], "pixels": [1, 2, 2], "nested": [2, 3], "scale": 0.5}
    assert "name it in num_items" in result["unknown_rows"]
    assert "sum(num_items) = 5 rows, got 4" in result["wrong_counts"]
