"""All ranks run the same plan with the same versions, or none creates a group.

Every rank writes what it was started with to the store; rank 0 compares and writes a verdict that all read: two
store operations per rank, and every rank raises the same error. Compared after groups exist, a difference would be
a hang; compared by each rank, it would be reads in the square of the number of ranks.
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
    """Lets one of several failing ranks speak, so that a failure is one message and not N interleaved ones."""

    store: Store
    rank: int

    def is_first(self) -> bool:
        """Whether no other rank has claimed before. Without an answer from the store rank 0 speaks, and rank 1.

        Where rank 0 hosts the store, and no launcher, the store goes with it: rank 1 cannot know whether rank 0 spoke
        or died without a word, and a second message is better than none.
        """
        try:
            return bool(self.store.add("speaker", 1) == 1)
        except RuntimeError:
            return self.rank <= 1


def agree(
    store: Store, rank: int, world_size: int, plan_world_size: int, found: Mapping[str, str], timeout: timedelta
) -> None:
    """Return when all ranks were started with equal `found` (names to values); raise on all of them otherwise.

    Raises:
        DisagreementError: the world is not the plan's, a rank did not come, or values differ.
    """
    if world_size != plan_world_size:
        raise DisagreementError(
            f"world size = {world_size}, but the plan is for {plan_world_size} ranks: "
            f"start {plan_world_size} processes, or compile the spec for {world_size}"
        )
    store.set(f"rank{rank}", json.dumps(dict(found), sort_keys=True))
    if rank == 0:
        store.set("verdict", _verdict(store, world_size, timeout))
    try:
        store.wait(["verdict"], 2 * timeout)  # rank 0 may itself wait that long for the others
    except RuntimeError as error:  # DistStoreError; the type differs between backends
        raise DisagreementError(f"rank {rank} had no answer from rank 0 within {2 * timeout}") from error
    verdict = store.get("verdict").decode()
    if verdict != _OK:
        raise DisagreementError(verdict)


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
    parts = [f"{name} {values[0][name]} on rank 0, {other[name]} on rank {different[0]}" for name in other]
    differing = [part for part, name in zip(parts, other, strict=True) if other[name] != values[0][name]]
    return (
        f"ranks were started differently: {'; '.join(differing)} (ranks {_some(different)} differ from rank 0). "
        "Give every rank the same plan file, options and versions"
    )


def _some(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:_MAX_NAMED]))
    return shown if len(ranks) <= _MAX_NAMED else f"{shown} and {len(ranks) - _MAX_NAMED} more"
