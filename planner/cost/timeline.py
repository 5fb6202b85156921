"""What a simulation found: every operation of every unit, and how long the step's pipeline takes.

Operations are kept as columns of numbers, one track per unit, and become objects when they are asked for: a pipeline
of 64 stages and 256 microbatches has 32,768 of them. Times are seconds from the start of the first operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import attrs

from ..ir import Direction
from .schedule import Call, Hop, Schedule, Stage, Unit, computations, in_flight


@attrs.frozen
class Wait:
    """Why an operation did not start when the one before it on the same unit ended.

    Attributes:
        seconds: between the two; all of the calls between them, of which the last that counted is named.
        hop: the two stages concerned.
        direction: of the tensors waited for.
        by_sender: the unit waited for its own tensors to be taken, instead of for those of another.
    """

    seconds: float
    hop: Hop
    direction: Direction
    by_sender: bool

    @property
    def on(self) -> Stage:
        """The stage that was waited for. Where the tensors stay on the unit, the one they come from."""
        return self.hop.dst if (self.direction is Direction.FORWARD) == self.by_sender else self.hop.src

    def __str__(self) -> str:
        what = "activations" if self.direction is Direction.FORWARD else "gradients"
        if self.hop.units[0] == self.hop.units[1]:
            return f"{what} to cross {self.hop.src.module}->{self.hop.dst.module} on its own ranks"
        return f"{self.on} to take {what}" if self.by_sender else f"{what} of {self.on}"


@attrs.frozen
class Operation:
    """One pass of one stage over one microbatch, on all ranks of a unit at once.

    Attributes:
        unit: index of the unit in the schedule.
        waited_for: None where it started as soon as the operation before it ended.
    """

    unit: int
    stage: Stage
    microbatch: int
    direction: Direction
    start: float
    end: float
    waited_for: Wait | None

    @property
    def seconds(self) -> float:
        return self.end - self.start


NO_WAIT = -1


@attrs.frozen
class Track:
    """The operations of one unit as columns. `causes`: NO_WAIT, or `4 * hop + 2 * is_backward + by_sender`."""

    starts: tuple[float, ...]
    ends: tuple[float, ...]
    causes: tuple[int, ...]

    @property
    def end(self) -> float:
        """When the unit's last operation ends; from then on it waits for the end of the step."""
        return self.ends[-1]


@attrs.frozen
class Segment:
    """A stretch of the critical path: a pass of a stage, or tensors that cross a hop."""

    start: float
    end: float
    direction: Direction
    microbatch: int
    where: Stage | Hop

    @property
    def seconds(self) -> float:
        return self.end - self.start


@attrs.frozen(kw_only=True)
class Timeline:
    """A simulated pipeline: one optimizer step, from the first forward pass to the end of the last backward pass.

    Attributes:
        schedule: the units, their ranks, and the hops between them.
        tracks: per unit of the schedule.
        path: the critical path, earliest segment first: without a gap, from 0 to the makespan.
    """

    schedule: Schedule
    tracks: tuple[Track, ...]
    path: tuple[Segment, ...]

    @cached_property
    def makespan(self) -> float:
        """Seconds until the last operation has ended. Gradient reduction and the optimizer come after it."""
        return max(track.end for track in self.tracks)

    @cached_property
    def busy(self) -> tuple[float, ...]:
        """Seconds that each unit computes."""
        return tuple(sum(track.ends) - sum(track.starts) for track in self.tracks)

    @cached_property
    def bubble(self) -> float:
        """The part of all GPU time in which a GPU computes nothing: 1 - sum of busy / (GPUs * makespan)."""
        worked = sum(busy * len(unit.ranks) for busy, unit in zip(self.busy, self.schedule.units, strict=True))
        return 1 - worked / (self.schedule.world_size * self.makespan) if self.makespan else 0.0

    @property
    def num_operations(self) -> int:
        return sum(len(track.starts) for track in self.tracks)

    @cached_property
    def in_flight(self) -> tuple[int, ...]:
        """Per unit, microbatches whose activations it holds at its fullest."""
        return tuple(in_flight(unit.num_warmup, self.schedule.num_microbatches) for unit in self.schedule.units)

    def operations(self, unit: int) -> Iterator[Operation]:
        """The operations of a unit, in the order in which it runs them."""
        track, hops, free = self.tracks[unit], self.schedule.hops, 0.0
        passes = stage_passes(self.schedule.units[unit], self.schedule.num_microbatches)
        for (call, stage, microbatch), start, end, cause in zip(
            passes, track.starts, track.ends, track.causes, strict=True
        ):
            wait = None if cause == NO_WAIT else _wait(start - free, hops[cause >> 2], cause)
            yield Operation(unit, stage, microbatch, DIRECTIONS[call], start, end, wait)
            free = end

    def waits(self, unit: int) -> dict[str, float]:
        """Seconds that a unit waits during the step, by what for; the longest first."""
        found: dict[str, float] = {}
        for operation in self.operations(unit):
            if operation.waited_for:
                reason = str(operation.waited_for)
                found[reason] = found.get(reason, 0.0) + operation.waited_for.seconds
        rest = self.makespan - self.tracks[unit].end
        if rest > 0:
            found["the others to end the step"] = rest
        return dict(sorted(found.items(), key=lambda item: -item[1]))


DIRECTIONS = {Call.FORWARD: Direction.FORWARD, Call.BACKWARD: Direction.BACKWARD}


def stage_passes(unit: Unit, num_microbatches: int) -> Iterator[tuple[Call, Stage, int]]:
    """Every (FORWARD or BACKWARD, stage, microbatch) of a unit in order; backward passes its stages in reverse."""
    forward, backward = unit.stages, unit.stages[::-1]
    for call, microbatch in computations(unit.num_warmup, num_microbatches):
        for stage in forward if call is Call.FORWARD else backward:
            yield call, stage, microbatch


def _wait(seconds: float, hop: Hop, cause: int) -> Wait:
    return Wait(seconds, hop, Direction.BACKWARD if cause & 2 else Direction.FORWARD, bool(cause & 1))
