"""Names of process groups that only their members create: given by the plan, never by torch's own counters.

Members of a group meet in the store under the group's name. torch salts the name of a locally synchronised group with a
counter of its own: up to 2.13 with the number of groups that the rank holds, which differs between members, so that
they would wait for one another under different names for ever; from 2.14 with `_world.group_count`, which anyone's own
groups move. Here a name is the plan's digest, how often this process has opened that plan, the group's place in the
plan's creation order, and a hash of its members: ranks that mean different groups wait for one another, rather than
meet. The place where torch asks for a name is private, so it is tried before the first group.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from ..errors import UnsupportedError

_DIGITS = 16  # of a hash: enough to tell plans, or groups, apart
_opened: Counter[str] = Counter()  # per digest: all ranks open a plan equally often, since opening it is collective


class GroupNames:
    """The names of the groups of one opening of a plan. All members of a group compute the same one.

    Attributes:
        prefix: what all of them begin with; no other opening in this process has it.
    """

    def __init__(self, digest: str) -> None:
        self.prefix = f"mimo/{digest[:_DIGITS]}/{_opened[digest]}"
        _opened[digest] += 1

    def of(self, place: int, ranks: Sequence[int]) -> str:
        """The name of the group of these ranks at a place that no other group of the plan has."""
        members = hashlib.sha256(",".join(map(str, ranks)).encode()).hexdigest()
        return f"{self.prefix}/{place}/{members[:_DIGITS]}"


@contextmanager
def named(name: str) -> Iterator[None]:
    """While active, `new_group` gives the group this name, and creates it by its members alone.

    It would not with a default group that is bound to a device, as NCCL's is from torch 2.15 without being asked: torch
    splits the communicator of such a group for every new one, in which all ranks must take part.
    """
    real: Any = distributed_c10d._process_group_name
    default: Any = distributed_c10d._get_default_group()
    bound, default.bound_device_id = default.bound_device_id, None
    distributed_c10d._process_group_name = lambda *_args, **_kwargs: name  # type: ignore[assignment]
    try:
        yield
    finally:
        distributed_c10d._process_group_name = real
        default.bound_device_id = bound


def open_alone(name: str) -> dist.ProcessGroup:
    """A group of this rank alone, under a given name: it proves that members of other groups will meet under theirs.

    Raises:
        UnsupportedError: this torch gives the group another name.
    """
    found: str
    try:
        with named(name):
            created: Any = dist.new_group([dist.get_rank()], use_local_synchronization=True, group_desc="alone")
        found = created.group_name
    except AttributeError as error:  # a private name is gone
        found = f"nothing: {error}"
    if found != name:
        raise UnsupportedError(
            f"torch {torch.__version__}: members of a group would not find each other by its name: asked for "
            f"{name}, got {found}\n    fix: install a torch that docs/training.md lists as seen to run"
        )
    assert isinstance(created, dist.ProcessGroup), "a group of this rank"
    return created
