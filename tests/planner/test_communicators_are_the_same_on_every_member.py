"""Law: every member of a group has it share the same communicator, and the plan counts how many are opened."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given

from planner import GroupKind, Plan
from tests.strategies import Case, cases, planned, simple


def by_members(plan: Plan) -> dict[int, set[int]]:
    """For each group, by its place in creation order, the openers that its members name."""
    found = defaultdict(set)
    for rank in range(plan.world_size):
        view = plan.view(rank)
        for group, opener in zip(view.groups, plan.communicators(view), strict=True):
            if len(group.ranks) > 1:
                found[group.creation_index].add(opener)
    return found


@given(cases(max_modules=4))
def test_members_agree_and_the_count_is_theirs(case: Case) -> None:
    plan = case.plan()
    openers = by_members(plan)
    assert all(len(named) == 1 for named in openers.values())
    assert plan.num_communicators == len(set().union(*openers.values()))


@given(cases(max_modules=4))
def test_those_that_share_have_equal_ranks_and_bridges_share_with_none(case: Case) -> None:
    plan = case.plan()
    groups = list(plan.creation_order())
    users = defaultdict(list)
    for position, named in by_members(plan).items():
        (opener,) = named
        users[opener].append(groups[position])
    for sharing in users.values():
        assert len({group.ranks for group in sharing}) == 1
        assert len(sharing) == 1 or not any(group.kind.startswith("bridge") for group in sharing)


@given(cases(max_modules=2))
def test_groups_of_one_rank_share_one(case: Case) -> None:
    plan = case.plan()
    view = plan.view(plan.world_size - 1)
    pairs = zip(view.groups, plan.communicators(view), strict=True)
    assert len({opener for group, opener in pairs if len(group.ranks) == 1}) <= 1


def test_lanes_of_four_ranks() -> None:
    """The example in communicators.py."""
    plan = planned(simple(language={"tp": 2, "dp": 2}))
    view = plan.view(0)
    shared = defaultdict(set)
    for group, opener in zip(view.groups, plan.communicators(view), strict=True):
        shared[opener].add(group.kind)
    kinds = {kind: kinds for kinds in shared.values() for kind in kinds}
    assert {GroupKind.TP, GroupKind.TP_CP, GroupKind.MP} <= kinds[GroupKind.TP]
    assert GroupKind.DP_CP in kinds[GroupKind.DP]
    assert GroupKind.TP not in kinds[GroupKind.DP]
