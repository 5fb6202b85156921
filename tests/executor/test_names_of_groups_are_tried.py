"""Law: creation by members alone rests on how torch names groups. A torch that names otherwise is refused in time."""

from __future__ import annotations

from collections.abc import Sequence
from unittest import mock

import pytest
import torch
from torch.distributed import distributed_c10d

from executor.errors import UnsupportedError
from executor.groups.group_names import check_naming
from tests.executor.jobs import ranks, specs

REMEDY = r"Seen to hold on torch 2.15: pip install 'torch==2.15.\*'"


def by_number_of_groups(ranks: Sequence[int], use_hashed_name: bool) -> str:
    """The name in torch 2.6, which depends on the number of groups that the rank holds."""
    return f"{ranks} {len(distributed_c10d._world.pg_names)}"


def by_both(ranks: Sequence[int], use_hashed_name: bool) -> str:
    return f"{ranks} {len(distributed_c10d._world.pg_names)} {distributed_c10d._world.group_count}"


def with_other_arguments(ranks: Sequence[int]) -> str:
    return ""


def test_this_torch_holds_and_nothing_is_left_behind() -> None:
    world = distributed_c10d._world
    before = world.group_count, dict(world.pg_names)
    check_naming()
    assert before == (world.group_count, dict(world.pg_names))


@pytest.mark.parametrize(
    ("naming", "fault"),
    [
        (by_number_of_groups, "it does not depend on torch's counter of groups"),
        (by_both, "it depends on what else the rank has created"),
        (with_other_arguments, "cannot be tried: .*use_hashed_name"),
    ],
)
def test_another_way_of_naming_is_refused(naming: object, fault: str) -> None:
    with (
        mock.patch.object(distributed_c10d, "_process_group_name", naming),
        pytest.raises(UnsupportedError, match=f"{fault}.*{REMEDY}") as caught,
    ):
        check_naming()
    assert str(caught.value).startswith(f"torch {torch.__version__}: members of a group")


@pytest.mark.parametrize("absent", ["_process_group_name", "_world"])
def test_a_torch_without_it_is_refused(absent: str) -> None:
    with mock.patch.object(distributed_c10d, absent):
        delattr(distributed_c10d, absent)
        with pytest.raises(UnsupportedError, match=REMEDY):
            check_naming()
        setattr(distributed_c10d, absent, None)  # so that mock puts the real one back


def test_ranks_stop_before_the_first_group() -> None:
    plan = specs.plan({"tp": 2}, {"dp": 2})
    found = ranks.run(plan.world_size, "jobs:groups_under_older_naming", plan.to_json(), timeout=30)
    assert found == [["it does not depend on torch's counter of groups", 0]] * 4
