"""How a rank ends when something is wrong: one rank speaks for the job, and names the ranks that are lost.

    the first rank that claims   looks at the heartbeats, prints one message, and leaves it in the store
    all others                   wait for that message, and end without a word

The message is also where torchrun looks for it (TORCHELASTIC_ERROR_FILE), so that its table shows it. If the store does
not answer, ranks cannot agree: then ranks 0 and 1 and the first rank of each node speak. Rank 1 does, since rank 0 may
have been the store's host, and have died without a word.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from .bounded import bounded
from .heartbeat import BEATS, Heartbeats, describe_lost, describe_store, serves_store

_CLAIM_SECONDS = 2.0
_LINGER_SECONDS = 5.0


class Ending:
    """The end of this process, which comes once: of several threads that end it, the first does.

    Attributes:
        timeout: how long a rank waits for another, in seconds.
        beats: the heart of this rank; None before it has a connection to the store.
        explain: what the published records of all ranks say, if they explain a failure: plans that differ look like a
            dead rank.
        farewell: tells ranks that still wait for this one why it will not come.
        deadline: when the process must have ended, in seconds of time.monotonic(); None while it runs.
        code: the exit code, once `deadline` is set.
    """

    def __init__(self) -> None:
        self.timeout = 120.0
        self.beats: Heartbeats | None = None
        self.explain: Callable[[Mapping[int, Mapping[str, Any]]], str | None] = lambda _: None
        self.farewell: Callable[[str], None] = lambda _: None
        self.deadline: float | None = None
        self.code = 1
        self._lock = threading.Lock()

    def speak(
        self, text: str, code: int, *, looks: float = 0.0, is_told_to_all: bool = False, is_silent: bool = False
    ) -> int | None:
        """Print `text`, if this rank is the one that speaks, and return `code`.

        Args:
            looks: for how many seconds to look for lost ranks, which are then named; 0 for not.
            is_told_to_all: whether all ranks end for the same reason, so that if they cannot agree only the first rank
                of each node speaks.
            is_silent: whether it is known that another rank speaks.

        Returns:
            The exit code, or None if another thread is ending this process already.
        """
        if not self._lock.acquire(blocking=False):
            return None
        self.code = code
        self.deadline = time.monotonic() + self.budget(looks) + 5.0
        if is_silent:
            self._record(text)
            return code
        is_first, problem = self._claim(is_told_to_all)
        if problem is None:
            self._ask(lambda _: self.farewell(text), self._claim_seconds)
        if not is_first:
            has_speaker = self.beats is not None and problem is None
            told = self._others_message(self.beats.interval) if self.beats is not None and has_speaker else None
            if has_speaker and told is None and self._speaks_alone():  # the rank that claimed died before it spoke
                write(f"executor: {text}")
            self._record(told or text)
            self._linger()
            return code
        if problem is None and looks and self.beats is not None:
            text, problem = self._with_lost(text, looks)
        if problem is not None and self.beats is not None and looks:
            text = f"{text}\n{describe_store(problem)}"
        write(f"executor: {text}")
        self._record(text)
        if problem is None:
            self._ask(lambda beats: beats.tell(text), self._claim_seconds)
            self._linger()
        return code

    def leave(self) -> None:
        """Say that this rank ends because it is done. Waits for ever if another thread is ending the process."""
        self._lock.acquire()
        self._ask(lambda beats: beats.leave(), self._claim_seconds)

    def budget(self, looks: float) -> float:
        """How long `speak` may take, in seconds: to claim, to bid farewell, to read and explain records, to look."""
        return 6 * self._claim_seconds + looks + 5.0

    @property
    def _claim_seconds(self) -> float:
        return min(_CLAIM_SECONDS, max(self.timeout / 20, 0.25))

    def _claim(self, is_told_to_all: bool) -> tuple[bool, Exception | None]:
        """Whether this rank speaks, and what is wrong with the store."""
        problem: Exception | None = None
        if self.beats is not None:
            try:
                return bounded(self.beats.claim, self._claim_seconds), None
            except (RuntimeError, TimeoutError) as error:
                problem = error
        return self._speaks_alone(is_told_to_all), problem

    @staticmethod
    def _speaks_alone(is_told_to_all: bool = False) -> bool:
        """Whether this rank speaks if ranks cannot agree on who does."""
        return _number("LOCAL_RANK") == 0 or (_number("RANK") <= 1 and not is_told_to_all)

    def _others_message(self, interval: float) -> str | None:
        """What the rank that claimed says, once it has looked for lost ranks; None if it says nothing."""
        seconds = BEATS * interval + 3 * self._claim_seconds + 1.0
        return self._ask(lambda beats: beats.told(seconds), seconds + self._claim_seconds)

    def _with_lost(self, text: str, seconds: float) -> tuple[str, Exception | None]:
        assert self.beats is not None
        beats = self.beats
        try:
            records = bounded(beats.records, self._claim_seconds)
            if explained := self._explained(records):
                return f"{text}\n{explained}", None
            lost = bounded(lambda: beats.lost(seconds), seconds + self._claim_seconds)
        except (RuntimeError, TimeoutError) as error:
            return text, error
        return (f"{text}\n{describe_lost(lost)}" if lost else text), None

    def _explained(self, records: Mapping[int, Mapping[str, Any]]) -> str | None:
        """What records explain; None also if that fails or takes long, as with thousands of ranks: ranks are lost then,
        and which ones they are matters more."""
        with contextlib.suppress(Exception):
            return bounded(lambda: self.explain(records), self._claim_seconds)
        return None

    def _linger(self) -> None:
        """If this rank serves the store, wait until the others leave too: when they read the message, or fail later.

        Not long, because a rank that died never says that it leaves.
        """
        beats = self.beats
        self._ask(lambda beats: beats.need_no_more(), self._claim_seconds)
        if beats is not None and serves_store():
            seconds = min(_LINGER_SECONDS, max(self.timeout / 4, 2 * beats.interval + 0.5))
            self._ask(lambda beats: beats.wait_for_others(seconds), seconds)

    def _ask[T](self, question: Callable[[Heartbeats], T], seconds: float) -> T | None:
        """The answer to a question; None if nobody answers."""
        beats = self.beats
        if beats is None:
            return None
        try:
            return bounded(lambda: question(beats), seconds)
        except (RuntimeError, TimeoutError):
            return None

    @staticmethod
    def _record(text: str) -> None:
        """Write `text` where torchrun looks for the message of a failed worker, in the form of torch's ErrorHandler.

        torch's own handler is not called: it is not there before torch is, and it records exceptions alone.
        """
        file = os.environ.get("TORCHELASTIC_ERROR_FILE")
        if file:
            extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
            try:
                with open(file, "w", encoding="utf-8") as stream:
                    json.dump({"message": {"message": text, "extraInfo": extra}}, stream)
            except OSError:
                pass  # the message is on stderr as well


def write(line: str) -> None:
    """Print to stderr. What cannot be printed is lost: nothing is left to say it with."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201  the one message


def _number(name: str) -> int:
    text = os.environ.get(name, "0")
    return int(text) if text.isascii() and text.isdecimal() else 0
