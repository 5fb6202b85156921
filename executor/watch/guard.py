"""A thread that ends this process if it no longer gets on, whatever the main thread is waiting for.

    no progress for 1.2 x timeout   says where the main thread stands, and ends the process
    SIGTERM, Ctrl-C                 one line; handlers of Python would wait for the main thread, this does not
    the launcher is gone            so that no rank outlives it
    another rank has spoken         ends without a word
    the store is gone               if the rank does not notice it by itself

Behind it stands faulthandler, which needs no Python at all: after 1.45 x timeout without progress it prints the stack
of every thread and ends the process. The guard sets it anew while there is progress, so it comes only if the guard
itself cannot run, because some call keeps the interpreter's lock. Errors of gloo and of the store, which say more, come
after 1.0 x timeout.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from . import progress
from .bounded import bounded
from .ending import Ending, write
from .heartbeat import BEATS, describe_store, store_address, store_server

INTERRUPTED, TERMINATED = 130, 143
_PACKAGE = Path(__file__).parents[1]
_GUARD, _LOOK, _SPEAK, _LAST_RESORT = 1.2, 0.15, 0.22, 1.45  # parts of the timeout
_STORE_GRACE_SECONDS = 2.0
_SIGNALS = {signal.SIGTERM: TERMINATED, signal.SIGINT: INTERRUPTED}


class Guard:
    """The guard of this process, and how the process ends.

    Attributes:
        ending: who speaks, and what is said.
    """

    def __init__(self) -> None:
        self.ending = Ending()
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._main = threading.main_thread().ident
        self._armed_since = 0.0
        self._is_armed, self._is_started = False, False

    def start(self) -> None:
        """Watch from now on. To be called by the main thread."""
        _open_standard_streams()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)  # what counts is the byte that arrives at the guard
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        progress.Imports.count()
        self._is_started = True
        threading.Thread(target=self._run, args=(reader,), name="guard", daemon=True).start()

    def arm(self, timeout: float) -> None:
        """End the process after `timeout` seconds without progress, and some more."""
        self.ending.timeout = timeout
        self._is_armed = True
        if self._is_started:
            faulthandler.dump_traceback_later(_LAST_RESORT * timeout, exit=True, file=2)

    def look_seconds(self, *, is_late: bool = False) -> float:
        """For how long to look for lost ranks.

        Args:
            is_late: whether a timeout has passed already, so that not much time is left.
        """
        beats = self.ending.beats
        wanted = 0.0 if beats is None else BEATS * beats.interval
        return min(wanted, _LOOK * self.ending.timeout) if is_late else wanted

    # ---- the guard's thread

    def _run(self, reader: int) -> None:
        while True:
            ready, _, _ = select.select([reader], [], [], min(max(self.ending.timeout / 40, 0.02), 0.5))
            received = os.read(reader, 64) if ready else b""
            self._look(received)

    def _look(self, received: bytes) -> None:
        deadline = self.ending.deadline
        if deadline is not None:
            if self._is_armed:  # the last resort now waits for the end, which looks for lost ranks
                self._is_armed = False
                faulthandler.dump_traceback_later(max(0.1, deadline + 1.0 - time.monotonic()), exit=True, file=2)
            if time.monotonic() > deadline:
                os._exit(self.ending.code)
            return
        place = progress.place()
        for number in received:
            if number in _SIGNALS:
                self._stopped_by(signal.Signals(number), place)
        if self._launcher is not None and os.getppid() != self._launcher:
            self._end(f"the launcher, process {self._launcher}, is gone", 1, 0.0, is_told_to_all=True)
        if place.phase != progress.ENDING:
            self._look_at_others(place)
        if self._is_armed:
            self._look_at_progress(place)

    def _look_at_others(self, place: progress.Place) -> None:
        beats = self.ending.beats
        if beats is None:
            return
        if beats.message is not None:
            self._end(beats.message, 1, 0.0)
        lost_at = beats.store_lost_at
        if lost_at is not None and time.monotonic() - lost_at > _STORE_GRACE_SECONDS:
            self._end(f"{self._rank} stopped at {place}: {describe_store(RuntimeError())}", 1, 0.0)

    def _look_at_progress(self, place: progress.Place) -> None:
        timeout, now = self.ending.timeout, time.monotonic()
        if now - place.since > _GUARD * timeout:
            self._stalled(place, now)
        if place.since - self._armed_since >= timeout / 100:  # it takes about 0.1 ms, so not at every look
            self._armed_since = place.since
            faulthandler.dump_traceback_later(max(0.1, place.since + _LAST_RESORT * timeout - now), exit=True, file=2)

    @property
    def _rank(self) -> str:
        return f"rank {os.environ.get('RANK', '0')}"

    def _stopped_by(self, number: signal.Signals, place: progress.Place) -> None:
        is_interrupt = number is signal.SIGINT
        how = "interrupted" if is_interrupt else f"stopped by {number.name}"
        looks = 0.0 if is_interrupt else self.look_seconds()
        self._end(f"{self._rank} was {how}: {place}", _SIGNALS[number], looks, is_told_to_all=True)

    def _stalled(self, place: progress.Place, now: float) -> None:
        waited = f"{now - place.since:.1f} s ({_GUARD} x --timeout)"
        stands = _stands(sys._current_frames().get(self._main or 0))
        text = f"{self._rank} made no progress for {waited}: {place}, {stands}"
        if self.ending.beats is None and place.phase == progress.MEETING:
            text += f"\nrank 0, which lets ranks meet, or the store at {store_address()} is frozen or out of reach"
        elif self.ending.beats is None:
            text += (
                f"\nno store answers at {store_address()}: {store_server()}, which serves it, is frozen or out of "
                "reach, or another program listens there"
            )
        self._end(text, 1, self.look_seconds(is_late=True), budget=_SPEAK * self.ending.timeout)

    def _end(
        self, text: str, code: int, looks: float, *, budget: float | None = None, is_told_to_all: bool = False
    ) -> None:
        """Speak, and end the process. Returns only if the main thread is ending it already.

        Args:
            budget: how many seconds it may take; None for as many as speaking needs.
        """
        ending = self.ending

        def speak() -> int | None:
            return ending.speak(text, code, looks=looks, is_told_to_all=is_told_to_all)

        try:
            if bounded(speak, ending.budget(looks) if budget is None else budget) is None:
                return
        except TimeoutError:
            pass  # nobody reads stderr, or the store stopped meanwhile
        except Exception as error:
            write(f"executor: {text}\n{type(error).__name__} while it was told: {error}")
        os._exit(code)


def _open_standard_streams() -> None:
    """Give the numbers of closed standard streams to /dev/null, lest sockets get them, and what is printed there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _stands(frame: FrameType | None) -> str:
    """The innermost line of this package on a stack, and the innermost function: "at groups.py:171 in _create"."""
    if frame is None:
        return "at an unknown place"
    innermost = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
    ours: FrameType | None = frame
    while ours is not None and not _is_ours(Path(ours.f_code.co_filename)):
        ours = ours.f_back
    if ours is None or ours is frame:
        return f"at {innermost}"
    return f"at {Path(ours.f_code.co_filename).name}:{ours.f_lineno} in {ours.f_code.co_name}, inside {innermost}"


def _is_ours(file: Path) -> bool:
    return _PACKAGE in file.parents and file.stem not in {"cpu_emulation", "gloo"}  # calls only pass through these
