"""Law: all groups of a plan stand in one order, and every rank walks its own groups along it.

Two ranks that create two shared groups in opposite orders hang. One total order makes that impossible.
"""

from __future__ import annotations

from hypothesis import given

from planner import GroupKind, Plan
from planner.base.axes import Axis
from tests.strategies import Case, cases, grids, planned, simple

MODULE_KINDS = [
    "tp", "cp", "pp", "dp", "dp_cp", "tp_cp", "tp_dp_cp", "mp", "intra_dist_opt",
    "ep", "expt_tp", "expt_dp", "tp_ep", "tp_ep_pp",
]  # fmt: skip


@given(cases())
def test_positions_count_up_without_gaps_and_no_group_comes_twice(case: Case) -> None:
    plan = case.plan()
    created = list(plan.creation_order())
    assert [group.creation_index for group in created] == list(range(len(created)))
    assert len(created) == plan.num_groups
    assert len({(group.owner, group.kind, group.index) for group in created}) == len(created)


@given(cases())
def test_owners_then_kinds_then_enumeration(case: Case) -> None:
    plan = case.plan()
    owners = [module.name for module in plan.modules] + [f"{src}->{dst}" for src, dst in plan.edges]
    kinds = list(GroupKind)
    keys = [(owners.index(g.owner), kinds.index(g.kind), g.index) for g in plan.creation_order()]
    assert keys == sorted(keys)


@given(cases())
def test_the_kinds_of_modules_and_edges_are_those_of_the_design(case: Case) -> None:
    plan = case.plan()
    created = list(plan.creation_order())
    for module in plan.modules:
        ends = ["embd", "pos_embd"] if module.name == "language" else []
        found = dict.fromkeys(str(group.kind) for group in created if group.owner == module.name)
        assert list(found) == MODULE_KINDS + ends
    for src, dst in plan.edges:
        found = dict.fromkeys(str(group.kind) for group in created if group.owner == f"{src}->{dst}")
        if set(plan.module(src).ranks) & set(plan.module(dst).ranks):
            assert set(found) <= {"bridge_gather"}
        else:
            assert list(found) == ["bridge_src", "bridge_dst", "bridge_p2p"]


@given(cases(max_modules=4))
def test_any_two_ranks_meet_in_their_shared_groups_in_the_same_order(case: Case) -> None:
    plan = case.plan()
    views = [plan.view(rank) for rank in range(min(plan.world_size, 12))]
    for one in views:
        for other in views:
            shared = [group.creation_index for group in one.groups if other.rank in group.ranks]
            assert shared == [group.creation_index for group in other.groups if one.rank in group.ranks]
            assert shared == sorted(shared)


@given(grids())
def test_the_order_can_be_walked_again(plan: Plan) -> None:
    assert list(plan.creation_order()) == list(plan.creation_order())


def test_four_ranks_by_hand() -> None:
    plan = planned(simple(images={"dp": 2}, language={"tp": 2}))
    found = [(group.owner, str(group.kind), group.ranks) for group in plan.creation_order()]
    assert found[:4] == [
        ("images", "tp", (0,)),
        ("images", "tp", (1,)),
        ("images", "cp", (0,)),
        ("images", "cp", (1,)),
    ]
    assert found[-6:] == [
        ("language", "pos_embd", (2,)),
        ("language", "pos_embd", (3,)),
        ("images->language", "bridge_src", (0,)),
        ("images->language", "bridge_src", (1,)),
        ("images->language", "bridge_dst", (2, 3)),
        ("images->language", "bridge_p2p", (0, 1, 2)),
    ]
    assert plan.module("images").grid.size_of(Axis.DP) == 2
