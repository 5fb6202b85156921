"""Law: the expert view keeps every rank's stage, and so has the same pipelines as the dense view.

Embeddings, gradients and schedules follow the pipelines of the dense view, experts those of the other. If the two
disagree, as the enumerations of two grids easily do, replicas of different stages reduce into each other.
"""

from __future__ import annotations

import pytest
from hypothesis import given

from planner import Plan
from planner.base.axes import Axis
from planner.layout.coords import Partition
from planner.layout.ir import Groups
from tests.strategies import Case, cases, grids, planned, simple


@given(cases())
def test_the_stage_of_a_rank_is_the_same_in_both_views(case: Case) -> None:
    plan = case.plan()
    for module in plan.modules:
        for rank in module.ranks:
            stage = module.grid.dense.coords(rank)[Axis.PP]
            assert module.grid.expert.coords(rank)[Axis.PP] == stage
            assert plan.view(rank).coords[module.name][Axis.PP] == stage


@given(grids())
def test_pipelines_are_the_same_groups_in_the_same_order(plan: Plan) -> None:
    grid = plan.module("language").grid
    expert = Groups(Partition(grid.expert, (Axis.PP,)))
    assert list(expert) == list(plan.groups("language", "pp"))


@given(grids())
def test_groups_that_span_stages_are_made_of_whole_pipelines(plan: Plan) -> None:
    pipelines = [set(group) for group in plan.groups("language", "pp")]
    for kind in ("mp", "tp_ep_pp", "intra_dist_opt"):
        for ranks in map(set, plan.groups("language", kind)):
            assert ranks == set().union(*(pipeline for pipeline in pipelines if pipeline & ranks))


@given(grids())
def test_groups_that_do_not_span_stages_stay_inside_one(plan: Plan) -> None:
    grid = plan.module("language").grid
    for kind in ("ep", "expt_tp", "expt_dp", "tp_ep", "tp_dp_cp"):
        for ranks in plan.groups("language", kind):
            assert len({grid.coord(rank, Axis.PP) for rank in ranks}) == 1


@pytest.mark.parametrize(("ep", "expt_tp"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4)])
@pytest.mark.parametrize("order", ["tp-cp-dp-pp", "tp-pp-dp-cp", "pp-tp-cp-dp", "dp-tp-pp-cp"])
def test_expert_axes_never_move_a_pipeline(order: str, ep: int, expt_tp: int) -> None:
    without = planned(simple(language={"tp": 2, "dp": 2, "pp": 2, "order": order}))
    experts = planned(simple(language={"tp": 2, "dp": 2, "pp": 2, "order": order, "ep": ep, "expt_tp": expt_tp}))
    for kind in ("pp", "embd", "pos_embd", "mp"):
        assert experts.groups("language", kind) == without.groups("language", kind)
