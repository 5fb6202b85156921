"""Law: on real ranks, groups have the members of the plan and share what it says; with cases that failed elsewhere."""

from __future__ import annotations

import pytest

from planner import Output, Plan
from planner.testing import PlanOf
from tests import EXAMPLES
from tests.executor.jobs import ranks, specs
from tests.executor.test_any_dag_is_scheduled import layout as chain
from tests.executor.test_bridges_equal_one_process import layout

# Two pipelines of language: the layout in which embedding groups were mixed (Megatron-Bridge #4985).
TWO_PIPELINES = specs.plan({"tp": 1, "pp": 2, "dp": 2}, {"dp": 1})


def test_embedding_groups_of_two_pipelines_do_not_cross_talk() -> None:
    """Megatron-Bridge #4985: groups [0, 2] and [1, 3] both reduced to 5.0, instead of to 4.0 and 6.0."""
    assert TWO_PIPELINES.groups("language", "embd") == ((0, 2), (1, 3))
    sums = ranks.run(TWO_PIPELINES.world_size, "jobs:embedding_sums", TWO_PIPELINES.to_json())
    assert sums[:4] == [4.0, 6.0, 4.0, 6.0]  # of rank numbers counted from 1


FLAT = Output(tensor_dims=2)
CHECKED = {
    "two pipelines": TWO_PIPELINES,
    "eight ranks": specs.plan({"tp": 2, "pp": 2}, {"tp": 2, "dp": 2}, fixed=True),
    "colocated": specs.plan({"tp": 2, "dp": 4}, {"tp": 4, "dp": 2}, fixed=True, placement="colocated", micro_size=8),
    "three modules": specs.plan(
        {"tp": 2, "pp": 2, "order": "tp-cp-pp-dp"}, {"dp": 2}, audio_parallel={"tp": 2}, fixed=True
    ),
    "varying fan-in": specs.plan({"tp": 2}, {"dp": 4}),
    "three to two": specs.plan({"dp": 2}, {"dp": 3}, micro_size=6),
    "colocated, varying": specs.plan({"tp": 4}, {"dp": 4}, placement="colocated"),
    "mixed": specs.plan({"tp": 2, "dp": 2, "rank_offset": 0}, {"dp": 2, "rank_offset": 1}),
    "colocated, two stages": specs.plan({"pp": 2}, {"pp": 2}, placement="colocated"),
    "cp on both sides": layout({"cp": 2, "dp": 2}, {"cp": 2, "tp": 2}, FLAT),
    "cp on shared ranks": layout({"cp": 2, "dp": 2, "rank_offset": 0}, {"cp": 4, "rank_offset": 0}, FLAT),
    "slices": layout({"tp": 2, "dp": 2}, {"tp": 2, "cp": 2}, FLAT, sliced=True),
    "batch second": layout({"dp": 3, "tp": 2}, {"dp": 2}, Output(tensor_dims=3, batch_dim=1)),
    "chain": chain({"images": ("audio",), "audio": ("language",)}, images={"dp": 3}, audio={"dp": 2}, language={}),
}


@pytest.mark.parametrize("plan", CHECKED.values(), ids=CHECKED)
def test_check_finds_nothing(plan: Plan) -> None:
    results = ranks.run(plan.world_size, "jobs:check", plan.to_json())
    assert [fault for result in results for fault in result["faults"]] == []
    assert all(result["bridges"] == [bridge.name for bridge in plan.bridges] for result in results)


def test_each_rank_holds_its_own_groups_only() -> None:
    results = ranks.run(TWO_PIPELINES.world_size, "jobs:communicators", TWO_PIPELINES.to_json())
    for rank, result in enumerate(results):
        view = TWO_PIPELINES.view(rank)
        assert result["num_groups"] == len(view.groups)
        assert result["num_communicators"] <= len({group.ranks for group in view.groups}) + 2


@pytest.mark.parametrize("name", ["tiny_4rank", "llava_8gpu", "llava_8gpu_colocated", "vision_audio_8gpu"])
def test_what_the_plan_counts_is_what_the_ranks_open(name: str, plan_of: PlanOf) -> None:
    plan = plan_of(EXAMPLES / f"{name}.yaml")
    results = ranks.run(plan.world_size, "jobs:communicators", plan.to_json())
    assert sum(result["num_opened"] for result in results) == plan.num_communicators
    assert all(result["singles"] <= 1 for result in results)


def test_equal_ranks_share_a_communicator_within_a_lane_of_traffic_only() -> None:
    """dp may share with dp_cp, but not with ep. A bridge shares with nothing. Groups of one rank share one."""
    plan = specs.plan(
        {"dp": 2, "ep": 2},
        {"dp": 2},
        fixed=True,
        models={"language": specs.language(num_moe_experts=4, moe_router_topk=2)},
    )
    result = ranks.run(plan.world_size, "jobs:communicators", plan.to_json())[0]
    shared = result["shared"]
    assert {"language:dp", "language:dp_cp"} <= shared["language:dp"]
    assert "language:ep" not in shared["language:dp"]
    assert "language:tp_ep" in shared["language:ep"]
    assert {"language:tp", "language:cp", "language:pp"} <= shared["language:tp"]
    assert shared["images->language:bridge_p2p"] == {"images->language:bridge_p2p"}


def test_a_grid_answers_from_the_plan_and_creates_nothing() -> None:
    results = ranks.run(TWO_PIPELINES.world_size, "jobs:grids", TWO_PIPELINES.to_json())
    for rank, result in enumerate(results):
        view = TWO_PIPELINES.view(rank)
        for (owner, kind), members in result["members"].items():
            assert members == view.group(owner, kind).ranks
        assert result["created"] == 0
        assert "come from the plan" in result["refusal"]
