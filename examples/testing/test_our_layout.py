"""What a project asserts about its own layout, and about code of its own that reads plans."""

from hypothesis import given

from planner import Plan
from planner.testing import PlanOf, assert_same_plan, assert_valid, plans

SPEC = "examples/llava_8gpu.yaml"


def test_language_stays_within_a_node(plan_of: PlanOf) -> None:
    plan = plan_of(SPEC)
    assert_valid(plan)
    assert {plan.view(rank).node for rank in plan.module("language").ranks} == {0}


def test_the_layout_is_the_one_that_we_train_with(plan_of: PlanOf) -> None:
    assert_same_plan(plan_of("examples/testing/in_production.json"), plan_of(SPEC))


@given(plans(max_modules=3, max_ranks=16))
def test_lanes_hold_every_sample_once(plan: Plan) -> None:
    for module in plan.modules:
        lanes = {plan.batch.slice(module.name, rank) for rank in module.ranks}
        samples = [sample for lane in lanes for sample in range(lane.start, lane.stop)]
        assert sorted(samples) == list(range(plan.batch_sizes.micro_size))
