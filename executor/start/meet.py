"""The ranks of one attempt find each other in a store that may hold what earlier attempts left there.

A launcher's store outlives a restart. torchrun tells each process how often it was restarted, but counts per agent, so
that the ranks of one attempt can be told different numbers (torch 2.15, c10d). What they share must be agreed on:

- Rank 0 draws the attempt's id and writes it as `challenge`, over the one of the attempt before.
- Every rank reads the challenge and answers it, under that id, with a token that it has drawn for itself.
- When all have answered, rank 0 welcomes each token. Then all other keys of the attempt begin with its id.

Who reads a challenge of an earlier attempt answers that one. Nobody welcomes its token, so it reads the challenge
again.
"""

from __future__ import annotations

import os
import secrets
import time
from datetime import timedelta

from torch._C._distributed_c10d import Store

from planner.base.runs import runs_text

from ..errors import DisagreementError
from ..watch import progress

_LOOK_AGAIN = timedelta(seconds=0.3)
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1  # seconds between two questions to the store
_FAREWELL = timedelta(seconds=2)
_WELCOME = "welcome"


class UnmetError(DisagreementError):
    """Not all ranks came.

    Attributes:
        speaks: whether this rank is to say so. There is no store of the attempt in which ranks could settle that.
    """

    def __init__(self, message: str, *, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks


def meet(store: Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """The id of this attempt, once all ranks have come. Collective.

    Args:
        store: what the launcher offers, with whatever is in it.
        timeout: how long to wait for the others.

    Raises:
        UnmetError: a rank did not come in time; the message names it.
    """
    progress.at(progress.MEETING)
    return _receive(store, world_size, timeout) if rank == 0 else _arrive(store, rank, timeout)


def _receive(store: Store, world_size: int, timeout: timedelta) -> str:
    """Rank 0's part."""
    attempt = secrets.token_hex(8)
    store.set("challenge", attempt)
    answers = [f"answer/{attempt}/{rank}" for rank in range(1, world_size)]
    said = _WELCOME
    if not came(store, answers, timeout):
        absent = [rank for rank, key in enumerate(answers, start=1) if not store.check([key])]
        if absent:  # else the last one came just now
            said = f"{ranks_text(absent)} did not come within {timeout}"
    come = [key for key in answers if said == _WELCOME or store.check([key])]
    tokens = [token.decode() for token in store.multi_get(come)] if come else []
    if tokens:
        welcomes = [_welcome(attempt, token) for token in tokens]
        store.multi_set(welcomes, [said] * len(tokens))  # type: ignore[attr-defined]  # torch's stubs lack it
    if said != _WELCOME:
        # If this rank hosts the store, the store ends with it: not before those who came have read why.
        came(store, [key.replace("answer", "heard") for key in come], _FAREWELL)
        raise UnmetError(said, speaks=True)
    return attempt


def _arrive(store: Store, rank: int, timeout: timedelta) -> str:
    """The part of every other rank."""
    token = secrets.token_hex(8)
    if not came(store, ["challenge"], timeout):
        raise UnmetError(f"rank 0 did not come within {timeout}", speaks=_speaks(rank))
    progress.at(progress.MEETING, rank=rank)
    deadline = time.monotonic() + 2 * timeout.total_seconds()  # rank 0 itself may wait for one timeout
    while True:
        attempt = store.get("challenge").decode()
        store.set(f"answer/{attempt}/{rank}", token)
        if came(store, [_welcome(attempt, token)], _LOOK_AGAIN):
            break
        if time.monotonic() > deadline:
            raise UnmetError(f"rank 0 did not welcome rank {rank} within {2 * timeout}", speaks=_speaks(rank))
    said = store.get(_welcome(attempt, token)).decode()
    if said != _WELCOME:
        store.set(f"heard/{attempt}/{rank}", "")
        raise UnmetError(said, speaks=False)
    return attempt


def came(store: Store, keys: list[str], timeout: timedelta) -> bool:
    """Whether all keys are in the store within `timeout`.

    It asks again and again, ever more seldom. `Store.wait` would be one question, but when its time is up torch's C++
    code writes warnings and a stack trace of its own to standard error.
    """
    deadline, pause = time.monotonic() + timeout.total_seconds(), _SHORTEST_PAUSE
    while keys and not store.check(keys):
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
    return True


def _speaks(rank: int) -> bool:
    """Whether a rank speaks that cannot ask the others: rank 1, and the first rank of each node."""
    return rank == 1 or os.environ.get("LOCAL_RANK") == "0"


def _welcome(attempt: str, token: str) -> str:
    return f"welcome/{attempt}/{token}"


def ranks_text(ranks: list[int]) -> str:
    """`rank 3`, or `ranks 0-2, 7`, for ascending ranks."""
    return f"rank{'s' if len(ranks) > 1 else ''} {runs_text(ranks)}"
