"""Law: members of a group meet under a name that the plan gives, whatever else each of them has created.

torch's own counters differ between members, in every release in another way. A torch that takes no name is refused
before the first group of several ranks.
"""

from __future__ import annotations

from executor.groups.group_names import GroupNames
from tests.executor.jobs import ranks, specs


def test_names_are_equal_on_all_members_and_different_for_each_opening() -> None:
    first, again, other = (GroupNames(digest) for digest in ("a" * 64, "a" * 64, "b" * 64))
    names = [one.of(place, (0, 1)) for one in (first, again, other) for place in (0, 1)]
    assert len(set(names)) == len(names)
    assert first.of(0, (0, 1)).startswith("mimo/aaaaaaaaaaaaaaaa/0/0/")
    assert first.of(0, (0, 1)) != first.of(0, (0, 2)), "ranks that mean different groups never meet"


def test_a_users_own_groups_move_no_name() -> None:
    """Ranks create different numbers of groups by themselves, and torch's counter is set to different values."""
    plan = specs.plan({"tp": 2}, {"dp": 2})
    found = ranks.run(plan.world_size, "jobs:groups_after_own_groups", plan.to_json(), timeout=30)
    assert found == [["all as planned", 3 * rank + 5] for rank in range(plan.world_size)]


def test_ranks_stop_before_the_first_group() -> None:
    """A torch that asks elsewhere for a name: every rank says so, and nobody waits."""
    plan = specs.plan({"tp": 2}, {"dp": 2})
    found = ranks.run(plan.world_size, "jobs:groups_without_given_names", plan.to_json(), timeout=30)
    for text, sizes in found:
        assert "members of a group would not find each other by its name: asked for mimo/" in text
        assert "docs/training.md" in text
        assert sizes == [1], "the trial alone"


def test_a_torch_without_the_place_is_refused() -> None:
    plan = specs.plan({"tp": 2}, {"dp": 2})
    found = ranks.run(plan.world_size, "jobs:groups_without_the_place", plan.to_json(), timeout=30)
    assert all("got nothing: " in text and "_process_group_name" in text for text in found)


def test_members_alone_create_groups_in_a_world_that_is_bound_to_a_device() -> None:
    """torch would split its communicator for each, with all ranks; from 2.15 it binds an NCCL world by itself."""
    plan = specs.plan({"tp": 2}, {"dp": 2})
    for faults, bound, kept in ranks.run(plan.world_size, "jobs:groups_of_a_bound_world", plan.to_json()):
        assert faults == []
        assert set(bound) == {None}
        assert kept == "cuda:0"
