"""What a simulation found: every operation and wait of every unit, and how long the pipeline takes.

Each unit has a track of them, kept as columns of numbers. They become objects only when they are asked for: a pipeline
of 64 stages and 256 microbatches has 32,768 operations. Times are seconds from the start of the first operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from ...base.frozen import frozen
from ...layout.ir import Direction
from .schedule import Call, Hop, Schedule, Stage, Unit, computations, in_flight


@frozen
class Reason:
    """What a unit waits for: tensors that have to cross a hop. `str` says it in words.

    Attributes:
        hop: the two stages between which the tensors move.
        direction: the direction in which they move.
        by_sender: whether the unit waits for its own tensors to be taken; otherwise it waits for tensors to come.
    """

    hop: Hop
    direction: Direction
    by_sender: bool

    @property
    def on(self) -> Stage:
        """The stage that the unit waits for; the one that the tensors come from if the unit holds both."""
        return self.hop.dst if (self.direction is Direction.FORWARD) == self.by_sender else self.hop.src

    def __str__(self) -> str:
        return self._words

    @cached_property
    def _words(self) -> str:
        what = self.direction.tensors
        if self.hop.units[0] == self.hop.units[1]:
            return f"{what} to cross {self.hop.src.module}->{self.hop.dst.module} on its own ranks"
        return f"{self.on} to take {what}" if self.by_sender else f"{what} of {self.on}"


@frozen
class Wait:
    """A time in which a unit computes nothing, before one of its operations.

    Attributes:
        start, end: when the wait begins and ends.
        reason: what the unit waits for.
    """

    start: float
    end: float
    reason: Reason

    @property
    def seconds(self) -> float:
        return self.end - self.start


@frozen
class Operation:
    """One pass of one stage over one microbatch, on all ranks of a unit at once.

    Attributes:
        unit: the unit's index in the schedule.
        stage: the stage that passes.
        microbatch: the microbatch, from 0.
        direction: whether the pass is forward or backward.
        start, end: when the pass begins and ends.
        waits: the unit's waits since its previous operation; empty if the pass began as soon as that one ended.
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
        """The longest of the operation's waits; None if it has none."""
        return max(self.waits, key=lambda wait: wait.seconds, default=None)


PASS = -1


def encode_wait(hop: int, direction: Direction, *, by_sender: bool) -> int:
    """A wait as one number.

    Args:
        hop: the index of its hop in the schedule.
        direction: the direction in which the tensors move.
        by_sender: whether their sender waits.
    """
    return 4 * hop + 2 * (direction is Direction.BACKWARD) + by_sender


def decode_wait(code: int) -> tuple[int, Direction, bool]:
    """(index of the hop, direction, whether the sender waits) of a number that `encode_wait` made."""
    return code >> 2, Direction.BACKWARD if code & 2 else Direction.FORWARD, bool(code & 1)


@frozen
class Track:
    """What one unit does, as columns: its operations and waits, each of which begins when the one before it ends.

    Attributes:
        ends: when each of them ends; the first begins at 0.
        codes: PASS for an operation, the number made by `encode_wait` for a wait.
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
        """Seconds of the unit's operations, all together."""
        return sum(end - start for start, end, code in self if code == PASS)

    def __iter__(self) -> Iterator[tuple[float, float, int]]:
        """(start, end, code) of each operation and wait."""
        return zip((0.0, *self.ends), self.ends, self.codes, strict=False)


@frozen
class Segment:
    """A segment of the critical path: a pass of a stage, or tensors that cross a hop.

    Attributes:
        start, end: when the segment begins and ends.
        direction: the direction of the pass, or of the tensors.
        microbatch: the microbatch, from 0.
        where: the stage that passes, or the hop that is crossed.
    """

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
        tracks: the track of each unit of the schedule.
        path: the critical path, from 0 to the makespan without a gap, earliest segment first.
    """

    schedule: Schedule
    tracks: tuple[Track, ...]
    path: tuple[Segment, ...]

    @cached_property
    def makespan(self) -> float:
        """Seconds until the last operation has ended. The reduction of gradients and the optimizer come after it."""
        return max(track.end for track in self.tracks)

    @cached_property
    def busy(self) -> tuple[float, ...]:
        """The seconds for which each unit computes."""
        return tuple(track.busy for track in self.tracks)

    @cached_property
    def gpu_seconds(self) -> float:
        """The seconds for which GPUs compute, summed over all GPUs."""
        return sum(busy * len(unit.ranks) for busy, unit in zip(self.busy, self.schedule.units, strict=True))

    @property
    def bubble(self) -> float:
        """The share of all GPU time in which a GPU computes nothing: 1 - gpu_seconds / (world_size * makespan)."""
        return 1 - self.gpu_seconds / (self.schedule.world_size * self.makespan) if self.makespan else 0.0

    @property
    def num_operations(self) -> int:
        """Number of operations of all units."""
        return sum(track.num_operations for track in self.tracks)

    @cached_property
    def in_flight(self) -> tuple[int, ...]:
        """The most microbatches whose activations each unit holds at once."""
        return tuple(in_flight(unit.num_warmup, self.schedule.num_microbatches) for unit in self.schedule.units)

    @cached_property
    def reasons(self) -> dict[int, Reason]:
        """What is waited for, by the code of the waits."""
        codes = {code for track in self.tracks for code in track.codes} - {PASS}
        found = {}
        for code in codes:
            hop, direction, by_sender = decode_wait(code)
            found[code] = Reason(self.schedule.hops[hop], direction, by_sender)
        return found

    def operations(self, unit: int) -> Iterator[Operation]:
        """The operations of a unit, in the order in which it runs them."""
        reasons = self.reasons
        passes = stage_passes(self.schedule.units[unit], self.schedule.num_microbatches)
        waits: tuple[Wait, ...] = ()
        for start, end, code in self.tracks[unit]:
            if code == PASS:
                call, stage, microbatch = next(passes)
                way = Direction.FORWARD if call is Call.FORWARD else Direction.BACKWARD
                yield Operation(unit, stage, microbatch, way, start, end, waits)
                waits = ()
            else:
                waits += (Wait(start, end, reasons[code]),)

    def waits(self, unit: int) -> dict[str, float]:
        """The seconds for which a unit waits in a step, by reason, the longest first."""
        found: dict[str, float] = {}
        for start, end, code in self.tracks[unit]:
            if code != PASS:
                reason = str(self.reasons[code])
                found[reason] = found.get(reason, 0.0) + (end - start)
        rest = self.makespan - self.tracks[unit].end
        if rest > 0:
            found["the others to end the step"] = rest
        return dict(sorted(found.items(), key=lambda item: -item[1]))


DIRECTIONS = {Call.FORWARD: Direction.FORWARD, Call.BACKWARD: Direction.BACKWARD}


def stage_passes(unit: Unit, num_microbatches: int) -> Iterator[tuple[Call, Stage, int]]:
    """Every (FORWARD or BACKWARD, stage, microbatch) of a unit, in order. Backward, its stages come in reverse."""
    forward, backward = unit.stages, unit.stages[::-1]
    for call, microbatch in computations(unit.num_warmup, num_microbatches):
        for stage in forward if call is Call.FORWARD else backward:
            yield call, stage, microbatch
