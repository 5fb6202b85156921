"""Each rank writes to the store, about every second, where it is. So a lost rank has a name, a place and a time.

The heart beats in a thread with a connection of its own: one that waits for a frozen store holds up nobody else. For
the same reason every question here is asked through bounded.py. Nothing is read while all is well but one key, under
which the rank that speaks leaves its message: then the others end too, and say nothing.

Ages are by the clocks of the ranks' machines, so across machines they are as exact as those clocks.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from . import progress

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEATS = 3  # how many intervals a rank may be silent before it is called lost
_MESSAGE = "message"
_MAX_NAMED = 8


class Beat(NamedTuple):
    """One beat of a rank.

    Attributes:
        number: how many beats there were, with this one.
        moment: when it was written, in seconds of time.time().
        place: where the rank was.
        leaves: whether the rank said that it ends.
    """

    number: int
    moment: float
    place: str
    leaves: bool


class StoreLostError(RuntimeError):
    """The store is gone, or does not answer."""


def interval_of(timeout: float) -> float:
    """Seconds between two beats of a run whose ranks wait `timeout` seconds for one another."""
    return min(max(timeout / 100, 0.2), 1.5)


class Heartbeats:
    """The heart of this rank.

    Attributes:
        message: what the rank that spoke for the job said; None while no rank has failed.
        record: what to publish beside the heartbeat, as small JSON: the groups that this rank has created.
        store_lost_at: since when the store has been gone, in seconds of time.monotonic(); None while it is there.
    """

    def __init__(self, store: Store, rank: int, world_size: int, interval: float) -> None:
        """`store` is where all ranks of this attempt meet. A thread copies its connection, and uses the copy alone."""
        self.rank, self.world_size, self.interval = rank, world_size, interval
        self.message: str | None = None
        self.store_lost_at: float | None = None
        self.record: Callable[[], Mapping[str, Any]] | None = None
        self._shared, self._count = store, 0
        self._own: Store | None = None
        self._published, self._lock = "", threading.Lock()
        self._connected, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        if self.world_size > 1:
            self._thread.start()

    def stop(self) -> None:
        """No further beats. The thread is not waited for long: the store may hold it."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(self.interval)

    def _run(self) -> None:
        try:
            self._own = self._shared.clone()
            self._connected.set()
            while not self._stopped.is_set():
                self._beat()
                self._stopped.wait(self.interval)
        except RuntimeError:  # torch's DistNetworkError and DistStoreError
            self.store_lost_at = time.monotonic()
            self._connected.set()

    def _beat(self, *, leaves: bool = False) -> None:
        with self._lock:  # so that none comes after the last
            if self._stopped.is_set() and not leaves:
                return
            self._count += 1
            beat = Beat(self._count, time.time(), str(progress.place()), leaves)
            self._store.set(f"beat/{self.rank}", json.dumps(beat))
            self._publish()
        if not leaves and self._store.check([_MESSAGE]):
            self.message = self._store.get(_MESSAGE).decode()

    def _publish(self) -> None:
        record = json.dumps(self.record()) if self.record is not None else ""
        if record != self._published:
            self._store.set(f"record/{self.rank}", record)
            self._published = record

    @property
    def _store(self) -> Store:
        self._connected.wait()
        if self._own is None:
            raise StoreLostError
        return self._own

    # ---- what a rank that ends asks. Each may wait for ever: call through bounded.py.

    def claim(self) -> bool:
        """Whether this rank is the first to ask, and so speaks for the job. Says also that this rank leaves."""
        if self.world_size == 1:
            return True
        self._stopped.set()
        self._beat(leaves=True)
        first: bool = self._store.add("speaker", 1) == 1
        return first

    def leave(self) -> None:
        """Say that this rank is done."""
        if self.world_size > 1:
            self._stopped.set()
            self._beat(leaves=True)
            self.need_no_more()

    def need_no_more(self) -> None:
        """Say that this rank will ask the store nothing more."""
        if self.world_size > 1:
            self._store.add("left", 1)

    def wait_for_others(self, seconds: float) -> None:
        """Wait until no rank needs the store any more, at most for `seconds`."""
        deadline = time.monotonic() + seconds
        while self.world_size > 1 and self._store.add("left", 0) < self.world_size and time.monotonic() < deadline:
            time.sleep(0.02)

    def tell(self, message: str) -> None:
        """Let the other ranks know that this one has said `message`, so that they end and say nothing."""
        if self.world_size > 1:
            self._store.set(_MESSAGE, message)

    def told(self, seconds: float) -> str | None:
        """The message of the rank that speaks; None if it said nothing for `seconds`."""
        deadline = time.monotonic() + seconds
        while not self._store.check([_MESSAGE]):
            if time.monotonic() > deadline:
                return None
            time.sleep(min(0.05, self.interval / 4))
        return self._store.get(_MESSAGE).decode()

    def lost(self, seconds: float) -> dict[int, Beat | None]:
        """The ranks whose heart does not beat and that did not say that they leave, with their last beat if any.

        Watches for `seconds`, and no longer than until all others have given a sign.
        """
        if self.world_size == 1:
            return {}
        deadline = time.monotonic() + seconds
        seen = self._beats()
        silent = {rank for rank, beat in seen.items() if rank != self.rank and (beat is None or not beat.leaves)}
        while silent and time.monotonic() < deadline:
            time.sleep(self.interval / 4)
            now = self._beats()
            silent = {rank for rank in silent if now[rank] == seen[rank]}
        return {rank: seen[rank] for rank in sorted(silent)}

    def records(self) -> dict[int, Mapping[str, Any]]:
        """What the ranks have published as their `record`, by rank."""
        return {} if self.world_size == 1 else self._read("record")

    def _beats(self) -> dict[int, Beat | None]:
        found = self._read("beat")
        return {rank: Beat(*found[rank]) if rank in found else None for rank in range(self.world_size)}

    def _read(self, name: str) -> dict[int, Any]:
        keys = {rank: f"{name}/{rank}" for rank in range(self.world_size)}
        if not self._store.check(list(keys.values())):  # reading a key that is not there would wait for it
            keys = {rank: key for rank, key in keys.items() if self._store.check([key])}
        found = self._store.multi_get(list(keys.values())) if keys else []
        return {rank: json.loads(text) for rank, text in zip(keys, found, strict=True)}


def store_server() -> str:
    """Who serves the store: "the launcher" or "rank 0"."""
    return "the launcher" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "rank 0"


def store_address() -> str:
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def serves_store() -> bool:
    """Whether the store ends with this process."""
    return os.environ.get("RANK") == "0" and store_server() == "rank 0"


def describe_lost(lost: dict[int, Beat | None]) -> str:
    """Which ranks are lost, when and where each was seen: "rank 2 was last seen 0.8 s before: training, step 3"."""
    now = time.time()
    named = [
        f"rank {rank} was never seen"
        if beat is None
        else f"rank {rank} was last seen {max(0.0, now - beat.moment):.1f} s before: {beat.place}"
        for rank, beat in list(lost.items())[:_MAX_NAMED]
    ]
    more = [f"and {len(lost) - _MAX_NAMED} more ranks are silent"] if len(lost) > _MAX_NAMED else []
    return "; ".join([*named, *more])


def describe_store(problem: BaseException) -> str:
    """That the store is gone or frozen, and who served it."""
    server, address = store_server(), store_address()
    if isinstance(problem, TimeoutError):
        return f"the store at {address}, which {server} serves, does not answer: {server} is frozen or out of reach"
    return f"the store at {address} is gone, and with it {server}, which served it"
