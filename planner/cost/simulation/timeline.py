"""What a simulation found: every operation and wait of every unit, and how long the step's pipeline takes.

They are kept as columns of numbers, one track per unit, and become objects when they are asked for: a pipeline
of 64 stages and 256 microbatches has 32,768 operations. Times are seconds from the start of the first operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from ...base.frozen import frozen
from ...layout.ir import Direction
from .schedule import Call, Hop, Schedule, Stage, Unit, computations, in_flight


@frozen
class Wait:
    """A stretch in which a unit computes nothing, before one of its operations.

    Attributes:
        hop: the two stages concerned.
        direction: of the tensors waited for.
        by_sender: the unit waits for its own tensors to be taken, instead of for those of another.
    """

    start: float
    end: float
    hop: Hop
    direction: Direction
    by_sender: bool

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def on(self) -> Stage:
        """The stage that was waited for. Where the tensors stay on the unit, the one they come from."""
        return self.hop.dst if (self.direction is Direction.FORWARD) == self.by_sender else self.hop.src

    def __str__(self) -> str:
        what = self.direction.tensors
        if self.hop.units[0] == self.hop.units[1]:
            return f"{what} to cross {self.hop.src.module}->{self.hop.dst.module} on its own ranks"
        return f"{self.on} to take {what}" if self.by_sender else f"{what} of {self.on}"


@frozen
class Operation:
    """One pass of one stage over one microbatch, on all ranks of a unit at once.

    Attributes:
        unit: index of the unit in the schedule.
        waits: what the unit waited for since the operation before it; none where it started as soon as that ended.
    """

    unit: int
    stage: Stage
    microbatch: int
    direction: Direction
    start: float
    end: float
    waits: tuple[Wait, ...]

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def waited_for(self) -> Wait | None:
        """The longest of its waits."""
        return max(self.waits, key=lambda wait: wait.seconds, default=None)


PASS = -1


def encode_wait(hop: int, direction: Direction, *, by_sender: bool) -> int:
    """One number for a wait: the index of its hop, the direction of the tensors, and whether their sender waits."""
    return 4 * hop + 2 * (direction is Direction.BACKWARD) + by_sender


def decode_wait(code: int) -> tuple[int, Direction, bool]:
    """(index of the hop, direction, whether the sender waits) of a wait that `encode_wait` made a number of."""
    return code >> 2, Direction.BACKWARD if code & 2 else Direction.FORWARD, bool(code & 1)


@frozen
class Track:
    """What one unit does as columns, operations and waits, each from the end of the one before it; the first from 0.

    Attributes:
        ends: when each ends.
        codes: PASS for an operation; for a wait, what `encode_wait` makes of it.
    """

    ends: tuple[float, ...]
    codes: tuple[int, ...]

    @property
    def end(self) -> float:
        """When the unit's last operation ends; from then on it waits for the end of the step."""
        return self.ends[-1]

    @property
    def num_operations(self) -> int:
        return self.codes.count(PASS)

    @property
    def busy(self) -> float:
        """Seconds of its operations."""
        return sum(end - start for start, end, code in self if code == PASS)

    def __iter__(self) -> Iterator[tuple[float, float, int]]:
        """(start, end, code) of each."""
        return zip((0.0, *self.ends), self.ends, self.codes, strict=False)


@frozen
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


@frozen(kw_only=True)
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
        return tuple(track.busy for track in self.tracks)

    @cached_property
    def gpu_seconds(self) -> float:
        """Seconds that GPUs compute, all of them together."""
        return sum(busy * len(unit.ranks) for busy, unit in zip(self.busy, self.schedule.units, strict=True))

    @property
    def bubble(self) -> float:
        """The part of all GPU time in which a GPU computes nothing: 1 - sum of busy / (GPUs * makespan)."""
        return 1 - self.gpu_seconds / (self.schedule.world_size * self.makespan) if self.makespan else 0.0

    @property
    def num_operations(self) -> int:
        return sum(track.num_operations for track in self.tracks)

    @cached_property
    def in_flight(self) -> tuple[int, ...]:
        """Per unit, microbatches whose activations it holds at its fullest."""
        return tuple(in_flight(unit.num_warmup, self.schedule.num_microbatches) for unit in self.schedule.units)

    def operations(self, unit: int) -> Iterator[Operation]:
        """The operations of a unit, in the order in which it runs them."""
        hops = self.schedule.hops
        passes = stage_passes(self.schedule.units[unit], self.schedule.num_microbatches)
        waits: list[Wait] = []
        for start, end, code in self.tracks[unit]:
            if code == PASS:
                call, stage, microbatch = next(passes)
                yield Operation(unit, stage, microbatch, DIRECTIONS[call], start, end, tuple(waits))
                waits.clear()
            else:
                hop, direction, by_sender = decode_wait(code)
                waits.append(Wait(start, end, hops[hop], direction, by_sender))

    def waits(self, unit: int) -> dict[str, float]:
        """Seconds that a unit waits during the step, by what for; the longest first."""
        found: dict[str, float] = {}
        for operation in self.operations(unit):
            for wait in operation.waits:
                reason = str(wait)
                found[reason] = found.get(reason, 0.0) + wait.seconds
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
