"""Law: before anything runs, megatron-core's own grids and roles are compared with the plan's, kind by kind."""

from __future__ import annotations

from planner import GroupKind, compile_spec, load_spec
from planner.testing import PlanOf
from tests import DATA, EXAMPLES
from tests.executor.jobs import ranks, specs

KINDS = [str(kind) for kind in GroupKind if not kind.startswith("bridge_")]
EXPERTS = {"language": specs.language(num_moe_experts=4, moe_router_topk=2)}
PLANS = [
    specs.plan({"tp": 2, "cp": 2, "pp": 2, "dp": 2, "ep": 4}, {"tp": 2, "dp": 2}, models=EXPERTS),
    # With pp in the middle, the box of the expert view has it there, or cuts an expert axis in two around it.
    specs.plan({"tp": 2, "dp": 2, "pp": 2, "ep": 2, "order": "tp-pp-cp-dp"}, {"pp": 2, "dp": 2}, models=EXPERTS),
    specs.plan({"tp": 2, "dp": 2, "pp": 2, "ep": 4, "order": "tp-pp-cp-dp"}, {"dp": 2}, models=EXPERTS),
    specs.plan({"dp": 4}, {"tp": 4}, fixed=True, placement="colocated"),
    compile_spec(load_spec(EXAMPLES / "qwen35_vl_17rank.yaml")),
    compile_spec(load_spec(EXAMPLES / "moe_ep8_32gpu.yaml")),
]


def test_every_kind_of_every_layout_is_megatrons_and_a_lost_rank_is_named() -> None:
    (found,) = ranks.run(1, "jobs:compare_layouts", [plan.to_json() for plan in PLANS], KINDS)
    assert len(KINDS) == 16
    for errors in found:
        assert list(errors) == KINDS
        for kind, error in errors.items():
            assert error.startswith(f"{kind} groups of language: the plan says [("), error
            assert error.endswith("nothing was trained")


def test_check_compares_them_too() -> None:
    """The command compares them, for a spec without models."""
    plan = str(DATA / "two_ranks.yaml")
    outcomes = ranks.run(2, "jobs:command_with_another_megatron", "check", plan)
    assert [code for code, _, _ in outcomes] == [1, 1]
    (message,) = [err for _, _, err in outcomes if err]
    assert message.startswith("executor: embd groups of language: the plan says [(0,)], megatron-core [(0, 0)]")


def test_a_layout_that_no_box_expresses_is_left_to_the_planners_proof(plan_of: PlanOf) -> None:
    """The stride of pp cuts an expert axis unevenly: the expert view has nothing to compare, and nothing fails."""
    plan = plan_of(DATA / "straddling.yaml")
    ((errors,),) = ranks.run(1, "jobs:compare_layouts", [plan.to_json()], ["tp", "ep"])
    assert set(errors) == {"tp"}
