"""Names of process groups that only their members create: the same on every member, by torch's own counter.

Members meet in the store under the group's name. torch makes that name from the members' ranks and from a salt, which
tells apart groups of the same ranks. In recent versions the salt is a counter that callers can set,
`_world.group_count`, and groups.py sets it to the group's place in the plan's creation order. Before that, it was the
number of groups that the rank holds (torch 2.6: `len(_world.pg_names)`). That number differs between members, which
would wait for one another under different names for ever. Both ways are private to torch, so before the first group
it is tried which of them the installed torch uses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed import distributed_c10d

from ..errors import UnsupportedError

KNOWN_TORCH = "2.15"


def check_naming() -> None:
    """Check that a group's name follows from its ranks and the counter alone. Creates nothing.

    Raises:
        UnsupportedError: it does not, or this torch names groups in a way that cannot be tried.
    """
    try:
        found = _fault()
    except (AttributeError, TypeError) as error:  # a private name is gone, or is called in another way
        found = f"its naming cannot be tried: {error}"
    if found:
        raise UnsupportedError(
            f"torch {torch.__version__}: members of a group would not find each other by its name: {found}. "
            f"Seen to hold on torch {KNOWN_TORCH}: pip install 'torch=={KNOWN_TORCH}.*'"
        )


def _fault() -> str:
    """What is wrong with the names; empty if nothing is."""
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
