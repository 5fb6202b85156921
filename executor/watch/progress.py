"""Where this rank stands, and since when. The watchdog measures from here, and other ranks are told it.

Whatever takes long says here how far it is: `progress.at("training", step=3, microbatch=1)`. One process is one rank,
so the process has one place. A call takes about half a microsecond.
"""

from __future__ import annotations

import sys
import time
from typing import NamedTuple


class Place(NamedTuple):
    """A place in a run.

    Attributes:
        phase: what the rank is doing, as a participle: "creating groups".
        detail: names and numbers that say how far it is, as "step" and 3.
        since: when the rank came here, or last did something here; seconds of time.monotonic().
    """

    phase: str
    detail: dict[str, object]
    since: float

    def __str__(self) -> str:
        return ", ".join([self.phase, *(f"{name} {value}" for name, value in self.detail.items())])


MEETING, ENDING = "meeting", "ending"
_place = Place("starting", {}, time.monotonic())


def at(phase: str, **detail: object) -> None:
    """Say that this rank has come to a place."""
    global _place  # noqa: PLW0603  the process is the rank
    _place = Place(phase, detail, time.monotonic())


def place() -> Place:
    """Where this rank is."""
    return _place


class Imports:
    """Counts every module that is looked for as progress: importing torch and megatron-core takes many seconds.

    It is an entry of sys.meta_path that finds nothing.
    """

    @staticmethod
    def find_spec(*_: object) -> None:
        at(_place.phase, **_place.detail)

    @classmethod
    def count(cls) -> None:
        """Count from now on."""
        if cls not in sys.meta_path:
            sys.meta_path.insert(0, cls)
