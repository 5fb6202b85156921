"""Either all ranks run the same plan with the same versions, or none of them creates a group.

Every rank writes to the store what it was started with; rank 0 compares, and writes a verdict that all ranks read. So
each rank needs two operations of the store, and all raise the same error. If the comparison came after groups exist, a
difference would be a hang; if each rank made it, the reads would grow with the square of the number of ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

import attrs
from torch._C._distributed_c10d import Store

from ..errors import DisagreementError

_OK = "ok"
_MAX_NAMED = 8


@attrs.frozen
class Claim:
    """Lets one of several failing ranks speak, so that a failure is one message instead of many interleaved ones.

    Attributes:
        store: where ranks claim; used for nothing else.
    """

    store: Store
    rank: int

    def is_first(self) -> bool:
        """Whether this rank is the first to claim. If the store does not answer, ranks 0 and 1 both speak.

        If rank 0 hosts the store instead of a launcher, the store ends with rank 0. Rank 1 then cannot know whether
        rank 0 spoke or died without a word, and two messages are better than none.
        """
        try:
            return bool(self.store.add("speaker", 1) == 1)
        except RuntimeError:
            return self.rank <= 1


def agree(
    store: Store, rank: int, world_size: int, plan_world_size: int, found: Mapping[str, str], timeout: timedelta
) -> None:
    """Return once it is known that all ranks were started alike; else raise, on all of them. Collective.

    Args:
        store: empty, and used for nothing else.
        found: what this rank was started with, as names and values.
        timeout: how long rank 0 waits for the others.

    Raises:
        DisagreementError: the world does not have the plan's size, a rank did not come, or values differ.
    """
    check_world_size(world_size, plan_world_size)
    store.set(f"rank{rank}", json.dumps(dict(found), sort_keys=True))
    if rank == 0:
        store.set("verdict", _verdict(store, world_size, timeout))
    try:
        store.wait(["verdict"], 2 * timeout)  # rank 0 itself may wait for the others for one timeout
    except RuntimeError as error:  # DistStoreError; the type differs between backends
        raise DisagreementError(f"rank {rank} had no answer from rank 0 within {2 * timeout}") from error
    verdict = store.get("verdict").decode()
    if verdict != _OK:
        raise DisagreementError(verdict)


def check_world_size(world_size: int, plan_world_size: int) -> None:
    """Raise DisagreementError unless the world has as many ranks as the plan."""
    if world_size != plan_world_size:
        raise DisagreementError(
            f"world size = {world_size}, but the plan is for {plan_world_size} ranks: "
            f"start {plan_world_size} processes, or compile the spec for {world_size}"
        )


def _verdict(store: Store, world_size: int, timeout: timedelta) -> str:
    keys = [f"rank{rank}" for rank in range(world_size)]
    try:
        store.wait(keys, timeout)
    except RuntimeError:
        absent = [rank for rank, key in enumerate(keys) if not store.check([key])]
        return f"ranks {_some(absent)} did not come within {timeout}"
    values = [json.loads(store.get(key)) for key in keys]
    different = [rank for rank, value in enumerate(values) if value != values[0]]
    if not different:
        return _OK
    other = values[different[0]]
    differing = [
        f"{name} {values[0][name]} on rank 0, {other[name]} on rank {different[0]}"
        for name in other
        if other[name] != values[0][name]
    ]
    return (
        f"ranks were started differently: {'; '.join(differing)} (ranks {_some(different)} differ from rank 0). "
        "Give every rank the same plan file, options and versions"
    )


def _some(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:_MAX_NAMED]))
    return shown if len(ranks) <= _MAX_NAMED else f"{shown} and {len(ranks) - _MAX_NAMED} more"
