"""Names of process groups that only their members create: the same on every member, by torch's own counter.

Members meet in the store under the group's name. torch makes it of the members' ranks and of a salt, for groups of
equal ranks. Since some version the salt is a counter that callers can set, `_world.group_count`, and groups.py sets
it to the group's place in the plan. Before, it was the number of groups that the rank holds (torch 2.6:
`len(_world.pg_names)`), which differs between members: they would wait for one another under different names, for
ever. Both are private to torch, so how this torch does it is tried before the first group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed import distributed_c10d

from ..errors import UnsupportedError

KNOWN_TORCH = "2.15"


def check_naming() -> None:
    """Raise UnsupportedError unless a name follows from the ranks and the counter alone. Creates nothing."""
    try:
        found = _fault()
    except (AttributeError, TypeError) as error:  # not there, or called in another way
        found = f"its naming cannot be tried: {error}"
    if found:
        raise UnsupportedError(
            f"torch {torch.__version__}: members of a group would not find each other by its name: {found}. "
            f"Seen to hold on torch {KNOWN_TORCH}: pip install 'torch=={KNOWN_TORCH}.*'"
        )


def _fault() -> str:
    """What is wrong with the names; empty where nothing is."""
    world: Any = distributed_c10d._world
    saved, names, probe = world.group_count, world.pg_names, object()
    try:
        first, other, again = _name(saved), _name(saved + 1), _name(saved)
        names[probe] = "one more group on this rank"
        with_more = _name(saved)
    finally:
        names.pop(probe, None)
        world.group_count = saved
    if first == other:
        return "it does not depend on torch's counter of groups"
    if not first == again == with_more:
        return "it depends on what else the rank has created"
    return ""


def _name(count: int) -> str:
    distributed_c10d._world.group_count = count
    return str(distributed_c10d._process_group_name([0], use_hashed_name=True))
