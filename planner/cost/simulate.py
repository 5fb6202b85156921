"""Plan + durations -> timeline: an event simulation of the 1F1B schedule.

What is modelled. A unit (schedule.py) does one thing at a time, in the order of its program. Tensors start to move
when both ends have reached the call that moves them, and arrive after the hop's seconds: megatron-core's
non-interleaved schedule overlaps no communication with computation, and posts a receive only when it needs it.
A receive holds its unit until the tensors are there. A send either

- WAITED: holds its unit as well, until the tensors have been taken. So are sends within a pipeline
  (`P2PCommunicator._communicate` waits for every request; the two directions of one call together), and those of
  megatron-core's own bridges, edge by edge.
- POSTED: goes on by itself, all edges of a call at once. Bridges must do so where branches differ in length:

Waited sends over edges stop for good where branches differ by two stages or more: the short branch wants to hand on
its next microbatch while its destination wants to hand back a gradient first. `simulate` says who waits for whom.

What is not modelled: lanes that differ, messages that share a wire, collectives of tensor parallelism apart from the
passes they belong to, and for ranks of several modules that depend on one another (schedule.py) sends that are waited
for. Recorded: megatron-core 0.19.2, pipeline_parallel/schedules.py, p2p_communication.py, bridge_communicator.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from enum import StrEnum

import attrs

from ..ir import Direction
from ..plan import Plan
from .durations import Durations
from .schedule import NONE, Call, Hop, Schedule, Stage, Unit, computations, program, schedule_of
from .timeline import DIRECTIONS, NO_WAIT, Segment, Timeline, Track, stage_passes


class Sends(StrEnum):
    """Whether a sender goes on before its tensors have been taken."""

    WAITED = "waited"
    POSTED = "posted"


class DeadlockError(RuntimeError):
    """The schedule stops for good. `waiting`: the units that wait for one another, in words."""

    def __init__(self, waiting: tuple[str, ...]) -> None:
        self.waiting = waiting
        super().__init__(f"the schedule stops for good: {'; '.join(waiting)}")


def simulate(plan: Plan, durations: Durations, *, edges: Sends = Sends.POSTED, hops: Sends = Sends.WAITED) -> Timeline:
    """Run one step of a plan.

    Args:
        plan: the layout.
        durations: seconds of every pass and transfer; see `Durations.of`.
        edges: sends between modules.
        hops: sends between the stages of one module.

    Raises:
        DeadlockError: some units wait for one another.
        KeyError: a duration is missing.
    """
    schedule = schedule_of(plan)
    pipes = [
        _Pipes.of(hop, index, durations, edges if hop.is_edge else hops) for index, hop in enumerate(schedule.hops)
    ]
    ready: deque[_Worker] = deque()
    workers = [
        _Worker(index, unit, schedule.num_microbatches, durations, pipes, ready)
        for index, unit in enumerate(schedule.units)
    ]
    ready.extend(workers)
    while ready:
        next(ready.popleft().run, None)
    if any(worker.asleep_on for worker in workers):
        raise DeadlockError(_circle(workers, schedule))
    return Timeline(
        schedule=schedule,
        tracks=tuple(worker.track() for worker in workers),
        path=tuple(_critical_path(workers, pipes)),
    )


# ---- tensors on their way


class _Channel:
    """One hop in one direction. Microbatches cross it in order; `k` is the number of one.

    Attributes:
        offers, wants: per microbatch, when the sender and the receiver came to it, and after which of their events.
        ends: per microbatch, when it has been taken.
        asleep: a worker that waits here, at either end.
    """

    __slots__ = ("asleep", "code", "ends", "hop", "offers", "seconds", "waited", "wants")

    def __init__(self, hop: Hop, code: int, seconds: float, waited: bool) -> None:
        self.hop, self.code, self.seconds, self.waited = hop, code, seconds, waited
        self.offers: list[tuple[float, int]] = []
        self.wants: list[tuple[float, int]] = []
        self.ends: list[float] = []
        self.asleep: _Worker | None = None

    @property
    def direction(self) -> Direction:
        return Direction.BACKWARD if self.code & 2 else Direction.FORWARD

    def party(self, sends: bool) -> int:
        """Index of the unit at one end."""
        return self.hop.units[0] if (self.direction is Direction.FORWARD) == sends else self.hop.units[1]


@attrs.frozen
class _Pipes:
    """Both channels of a hop."""

    hop: Hop
    forward: _Channel
    backward: _Channel

    @classmethod
    def of(cls, hop: Hop, index: int, durations: Durations, sends: Sends) -> _Pipes:
        src, dst = hop.src.module, hop.dst.module
        there, back = (durations.edges[src, dst, way] if hop.is_edge else durations.hops[src] for way in Direction)
        waited = sends is Sends.WAITED
        return cls(hop, _Channel(hop, 4 * index, there, waited), _Channel(hop, 4 * index + 2, back, waited))


Event = tuple[float, int, int]
"""(when, NO_WAIT, number of the operation that ended), or (when, code of the channel (+ 1: its sender), microbatch)."""

Posts = Sequence[tuple[_Channel, _Channel]]
"""(to send into, to receive from): all posted before any is waited for."""


@attrs.frozen
class _Sides:
    """The hops of a part of a unit: those that bring its input, and those that take its output."""

    before: tuple[_Pipes, ...]
    after: tuple[_Pipes, ...]
    internal_before: tuple[_Pipes, ...]
    internal_after: tuple[_Pipes, ...]

    @classmethod
    def of(cls, unit: int, part: Sequence[Stage], pipes: Sequence[_Pipes]) -> _Sides:
        found: list[list[_Pipes]] = [[], [], [], []]
        for pipe in pipes:
            internal = 2 * (pipe.hop.units[0] == pipe.hop.units[1])
            if pipe.hop.units[1] == unit and pipe.hop.dst in part:
                found[internal].append(pipe)
            if pipe.hop.units[0] == unit and pipe.hop.src in part:
                found[internal + 1].append(pipe)
        return cls(*map(tuple, found))


# ---- units at work


class _Worker:
    """A unit on its way through its program. `run` gives control back when it waits or has ended."""

    def __init__(
        self,
        index: int,
        unit: Unit,
        num_microbatches: int,
        durations: Durations,
        pipes: Sequence[_Pipes],
        ready: deque[_Worker],
    ) -> None:
        self.index, self.unit, self.num_microbatches = index, unit, num_microbatches
        self.now = 0.0
        self.events: list[Event] = []
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.causes: list[int] = []
        self.asleep_on: tuple[_Channel, bool] | None = None
        self._ready = ready
        self._sides = [_Sides.of(index, part, pipes) for part in unit.parts]
        forward, backward = Direction.FORWARD, Direction.BACKWARD
        self._seconds = {  # per part, in the order in which its stages run
            Call.FORWARD: [[durations.passes[stage, forward] for stage in part] for part in unit.parts],
            Call.BACKWARD: [[durations.passes[stage, backward] for stage in part[::-1]] for part in unit.parts],
        }
        self.run = self._one_part() if len(unit.parts) == 1 else self._several_parts()

    def track(self) -> Track:
        return Track(tuple(self.starts), tuple(self.ends), tuple(self.causes))

    def _one_part(self) -> Iterator[None]:
        """The program as it stands: each call is with all neighbours of one side."""
        up = _batches([(pipes.backward, pipes.forward) for pipes in self._sides[0].before])
        down = _batches([(pipes.forward, pipes.backward) for pipes in self._sides[0].after])
        for call, forward, backward in program(self.unit.num_warmup, self.num_microbatches):
            if call is Call.UPSTREAM:
                for posts in up:
                    yield from self._exchange(posts, backward, forward)
            elif call is Call.DOWNSTREAM:
                for posts in down:
                    yield from self._exchange(posts, forward, backward)
            else:
                self._compute(self._seconds[call][0])

    def _several_parts(self) -> Iterator[None]:
        """The passes of the program; every part receives what it needs, computes and sends on without waiting."""
        forward = [(s.internal_before, s.before, s.after, "forward") for s in self._sides]
        backward = [(s.internal_after, s.after, s.before, "backward") for s in self._sides[::-1]]
        for call, microbatch in computations(self.unit.num_warmup, self.num_microbatches):
            parts = forward if call is Call.FORWARD else backward
            seconds = self._seconds[call] if call is Call.FORWARD else self._seconds[call][::-1]
            for (internal, inputs, outputs, direction), durations in zip(parts, seconds, strict=True):
                self._cross([getattr(pipes, direction) for pipes in internal], microbatch)
                channels = [getattr(pipes, direction) for pipes in inputs]
                yield from self._exchange([(channel, channel) for channel in channels], NONE, microbatch)
                self._compute(durations)
                for pipes in outputs:
                    self._offer(getattr(pipes, direction))

    def _compute(self, seconds: Sequence[float]) -> None:
        """The stages of a part, one after the other."""
        for duration in seconds:
            self.causes.append(self.events[-1][1] if self.events else NO_WAIT)
            self.starts.append(self.now)
            self.now += duration
            self.events.append((self.now, NO_WAIT, len(self.ends)))
            self.ends.append(self.now)

    def _cross(self, channels: Sequence[_Channel], k: int) -> None:
        """Tensors that stay on the unit's ranks: collectives in which it computes nothing."""
        for channel in channels:
            if channel.seconds:
                self.now += channel.seconds
                self.events.append((self.now, channel.code, k))

    def _exchange(self, posts: Posts, sent: int, received: int) -> Iterator[None]:
        """Post everything, then wait for what is to be waited for. NONE: nothing goes that way."""
        for out, back in posts:
            if sent != NONE:
                self._offer(out)
            if received != NONE:
                self._want(back)
        for out, back in posts:
            if received != NONE:
                if len(back.ends) <= received:
                    self.asleep_on, back.asleep = (back, False), self
                    yield
                self._arrive(back.ends[received], back.code, received)
            if sent != NONE and out.waited:
                if len(out.ends) <= sent:
                    self.asleep_on, out.asleep = (out, True), self
                    yield
                self._arrive(out.ends[sent], out.code + 1, sent)

    def _arrive(self, end: float, code: int, k: int) -> None:
        if end > self.now:
            self.now = end
            self.events.append((end, code, k))

    def _offer(self, channel: _Channel) -> None:
        channel.offers.append((self.now, len(self.events) - 1))
        if len(channel.wants) >= len(channel.offers):
            self._settle(channel)

    def _want(self, channel: _Channel) -> None:
        channel.wants.append((self.now, len(self.events) - 1))
        if len(channel.offers) >= len(channel.wants):
            self._settle(channel)

    def _settle(self, channel: _Channel) -> None:
        """Both ends have come to the next microbatch: say when it arrives, and wake who waits for it."""
        k = len(channel.ends)
        channel.ends.append(max(channel.offers[k][0], channel.wants[k][0]) + channel.seconds)
        if channel.asleep is not None:
            self._ready.append(channel.asleep)
            channel.asleep.asleep_on, channel.asleep = None, None


def _batches(pairs: list[tuple[_Channel, _Channel]]) -> list[list[tuple[_Channel, _Channel]]]:
    """Hops whose sends are posted go at once, those whose sends are waited for one after the other."""
    posted = [pair for pair in pairs if not pair[0].waited]
    return [*([posted] if posted else []), *([pair] for pair in pairs if pair[0].waited)]


# ---- afterwards


def _critical_path(workers: Sequence[_Worker], pipes: Sequence[_Pipes]) -> list[Segment]:
    """From the last operation back to the start: at each instant, what the next thing on the path waited for."""
    worker = max(workers, key=lambda worker: worker.now)
    passes: dict[int, list[tuple[Call, Stage, int]]] = {}
    at, found = len(worker.events) - 1, []
    while at >= 0:
        end, code, number = worker.events[at]
        if code == NO_WAIT:
            if worker.index not in passes:
                passes[worker.index] = list(stage_passes(worker.unit, worker.num_microbatches))
            call, stage, microbatch = passes[worker.index][number]
            found.append(Segment(worker.starts[number], end, DIRECTIONS[call], microbatch, stage))
            at -= 1
            continue
        channel = pipes[code >> 2].backward if code & 2 else pipes[code >> 2].forward
        if channel.seconds:
            found.append(Segment(end - channel.seconds, end, channel.direction, number, channel.hop))
        if channel.offers:
            offer, want = channel.offers[number], channel.wants[number]
            at = max(offer, want, key=lambda came: came[0])[1]
            worker = workers[channel.party(sends=offer[0] >= want[0])]
        else:  # it stayed on its ranks
            at -= 1
    return found[::-1]


def _circle(workers: Sequence[_Worker], schedule: Schedule) -> tuple[str, ...]:
    """Who waits for whom, from the first unit that is met twice on."""
    seen: list[int] = []
    at = next(worker.index for worker in workers if worker.asleep_on)
    while at not in seen:
        seen.append(at)
        waits = workers[at].asleep_on
        if waits is None:
            break  # it ended without sending what the last one waits for; cannot be in a schedule
        at = waits[0].party(not waits[1])
    return tuple(_wait_in_words(workers[index], schedule) for index in seen[seen.index(at) :])


def _wait_in_words(worker: _Worker, schedule: Schedule) -> str:
    waits = worker.asleep_on
    if waits is None:
        return f"{worker.unit} has ended"
    channel, as_sender = waits
    what = "activations" if channel.direction is Direction.FORWARD else "gradients"
    other = schedule.units[channel.party(not as_sender)]
    k = len(channel.ends)
    verb = f"to hand {what} of microbatch {k} to" if as_sender else f"for {what} of microbatch {k} from"
    return f"{worker.unit} waits {verb} {other}"
