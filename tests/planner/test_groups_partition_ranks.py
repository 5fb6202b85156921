"""Law: the groups of every kind cut their module's ranks into equal parts, listed by lowest rank.

Embedding groups cover the boundary stages alone, and have a law of their own.
"""

from __future__ import annotations

from itertools import chain
from math import prod

import pytest
from hypothesis import given

from planner import GroupKind, ModulePlan, Plan
from planner.base.axes import Axis
from tests.strategies import Case, cases, grids, planned, simple

AXES = {
    "tp": ["tp"],
    "cp": ["cp"],
    "pp": ["pp"],
    "dp": ["dp"],
    "dp_cp": ["dp", "cp"],
    "tp_cp": ["tp", "cp"],
    "tp_dp_cp": ["tp", "dp", "cp"],
    "mp": ["tp", "pp"],
    "intra_dist_opt": ["tp", "cp", "dp", "pp"],
    "ep": ["ep"],
    "expt_tp": ["expt_tp"],
    "expt_dp": ["expt_dp"],
    "tp_ep": ["expt_tp", "ep"],
    "tp_ep_pp": ["expt_tp", "ep", "pp"],
}


def check_partition(plan: Plan, module: ModulePlan, kind: str) -> None:
    groups = plan.groups(module.name, kind)
    size = prod(module.grid.size_of(Axis(axis)) for axis in AXES[kind])
    assert [len(group) for group in groups] == [size] * (module.grid.size // size)
    assert sorted(chain(*groups)) == list(module.ranks)
    assert all(list(group) == sorted(group) for group in groups)
    lowest = [group[0] for group in groups]
    assert lowest == sorted(lowest)


@given(cases())
def test_every_kind_cuts_its_module_into_equal_parts(case: Case) -> None:
    plan = case.plan()
    for module in plan.modules:
        for kind in AXES:
            check_partition(plan, module, kind)


@given(grids())
def test_every_order_and_expert_view_does(plan: Plan) -> None:
    for kind in AXES:
        check_partition(plan, plan.module("language"), kind)


@given(grids())
def test_embedding_groups_take_the_ends_of_every_pipeline(plan: Plan) -> None:
    pipelines = plan.groups("language", "pp")
    assert [set(group) for group in plan.groups("language", "embd")] == [{p[0], p[-1]} for p in pipelines]
    assert list(plan.groups("language", "pos_embd")) == [p[:1] for p in pipelines]


@given(cases(min_modules=2))
def test_broadcast_groups_cut_the_boundary_stages_by_lane(case: Case) -> None:
    plan = case.plan()
    for bridge in plan.bridges:
        for side, name, at in ((bridge.src_broadcast, bridge.src, -1), (bridge.dst_broadcast, bridge.dst, 0)):
            pipelines = plan.groups(name, "pp")
            assert sorted(chain(*side)) == sorted(pipeline[at] for pipeline in pipelines)
            assert len(side) == plan.module(name).grid.size_of(Axis.DP)


@pytest.mark.parametrize(
    ("order", "kind", "groups"),
    [
        ("tp-cp-dp-pp", "tp", [(0, 1), (2, 3), (4, 5), (6, 7)]),
        ("tp-cp-dp-pp", "dp", [(0, 2), (1, 3), (4, 6), (5, 7)]),
        ("tp-cp-dp-pp", "pp", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("tp-cp-dp-pp", "mp", [(0, 1, 4, 5), (2, 3, 6, 7)]),
        ("tp-pp-cp-dp", "pp", [(0, 2), (1, 3), (4, 6), (5, 7)]),
        ("tp-pp-cp-dp", "dp", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("pp-dp-cp-tp", "tp", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("pp-dp-cp-tp", "tp_dp_cp", [(0, 2, 4, 6), (1, 3, 5, 7)]),
    ],
)
def test_eight_ranks_by_hand(order: str, kind: str, groups: list[tuple[int, ...]]) -> None:
    plan = planned(simple(language={"tp": 2, "dp": 2, "pp": 2, "order": order}))
    assert plan.groups("language", kind) == groups


def test_an_expert_axis_that_straddles_the_stride_of_pp_by_hand() -> None:
    """With tp 3, pp 2 and cp 2, stage 0 is ranks 0 1 2 6 7 8, which are refactored in twos."""
    parallel = {"tp": 3, "pp": 2, "cp": 2, "expt_tp": 2, "order": "tp-pp-cp-dp"}
    plan = planned(simple(language=parallel))
    assert plan.groups("language", "expt_tp") == [(0, 1), (2, 6), (3, 4), (5, 9), (7, 8), (10, 11)]
    assert plan.groups("language", "tp_ep_pp") == [(0, 1, 3, 4), (2, 5, 6, 9), (7, 8, 10, 11)]


def test_every_kind_of_the_plan_is_under_some_law() -> None:
    others = {"embd", "pos_embd", "bridge_src", "bridge_dst", "bridge_p2p", "bridge_gather"}
    assert set(GroupKind) == set(AXES) | others
