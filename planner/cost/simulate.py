"""Plan + durations -> timeline: an event simulation of the 1F1B schedule.

What is modelled. A unit (schedule.py) does one thing at a time, in the order of its program. Tensors start to move
when both ends have reached the call that moves them, and arrive after the hop's seconds: megatron-core's
non-interleaved schedule overlaps no communication with computation, and posts a receive only when it needs it.
A receive holds its unit until the tensors are there. A send either

- WAITED: holds its unit as well, until the tensors have been taken. So are sends within a pipeline
  (`P2PCommunicator._communicate` waits for every request; the two directions of one call together), those inside a
  pass, between modules that share ranks, and those of megatron-core's own bridges, edge by edge.
- POSTED: goes on by itself, all edges of a call at once. Bridges must do so where branches differ in length:

Waited sends over edges stop for good where branches differ by two stages or more: the short branch wants to hand on
its next microbatch while its destination wants to hand back a gradient first. `simulate` says who waits for whom.

What is not modelled: lanes that differ, messages that share a wire, and collectives of tensor parallelism apart from
the passes they belong to. Recorded: megatron-core 0.19.2, pipeline_parallel/schedules.py, p2p_communication.py,
bridge_communicator.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from enum import StrEnum

import attrs

from ..ir import Direction
from ..plan import Plan
from .durations import Durations
from .schedule import NONE, Call, Hop, Schedule, Stage, program, schedule_of
from .timeline import DIRECTIONS, PASS, Segment, Timeline, Track, stage_passes


class Sends(StrEnum):
    """Whether a sender goes on before its tensors have been taken."""

    WAITED = "waited"
    POSTED = "posted"


class DeadlockError(RuntimeError):
    """The schedule stops for good.

    Attributes:
        waiting: the units that wait for one another, in words.
        rule: what is wrong, with them.
        remedy: what to change.
    """

    def __init__(self, waiting: tuple[str, ...], remedy: str) -> None:
        self.waiting, self.remedy = waiting, remedy
        self.rule = f"the schedule stops for good: {'; '.join(waiting)}"
        super().__init__(f"{self.rule}; fix: {remedy}")


_REMEDIES = {
    Sends.POSTED: "give modules that share ranks ranks of their own, or pp: 1",  # others never stop
    Sends.WAITED: "post the sends over edges",
}


def simulate(plan: Plan, durations: Durations, *, edges: Sends = Sends.POSTED, hops: Sends = Sends.WAITED) -> Timeline:
    """Run one step of a plan.

    Args:
        plan: the layout.
        durations: seconds of every pass and transfer; see `Durations.of`.
        edges: sends between modules apart.
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
    workers = [_Worker(index, schedule, durations, pipes, ready) for index in range(len(schedule.units))]
    ready.extend(workers)
    while ready:
        next(ready.popleft().run, None)
    if any(worker.asleep_on for worker in workers):
        raise DeadlockError(_circle(workers, schedule), _REMEDIES[edges])
    return Timeline(
        schedule=schedule,
        tracks=tuple(worker.track() for worker in workers),
        path=tuple(_critical_path(workers, pipes)),
    )


# ---- tensors on their way


class _Channel:
    """One hop in one direction. Microbatches cross it in order, and are numbered.

    Attributes:
        offers, wants: per microbatch, when the sender and the receiver came to it.
        offered_after, wanted_after: and after which of their events.
        ends: per microbatch, when it has been taken.
        asleep: a worker that waits here, at either end.
    """

    __slots__ = (
        "asleep", "code", "ends", "hop", "offered_after", "offers", "seconds", "waited", "wanted_after", "wants",
    )  # fmt: skip

    def __init__(self, hop: Hop, code: int, seconds: float, waited: bool) -> None:
        self.hop, self.code, self.seconds, self.waited = hop, code, seconds, waited
        self.offers: list[float] = []
        self.wants: list[float] = []
        self.offered_after: list[int] = []
        self.wanted_after: list[int] = []
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
        there, back = (durations.edges[src, dst, way] if hop.is_edge else durations.hops[hop.src] for way in Direction)
        waited = hop.is_shared or sends is Sends.WAITED
        return cls(hop, _Channel(hop, 4 * index, there, waited), _Channel(hop, 4 * index + 2, back, waited))


Exchange = tuple[list[_Channel], list[_Channel]]
"""(to send into, to receive from): all posted before any is waited for."""


# ---- units at work


class _Worker:
    """A unit on its way through its program. `run` gives control back when it waits or has ended.

    What it did are its *events*, as columns, because a few hundred thousand tuples would be looked at by the garbage
    collector again and again: when each ended, and so the next began; PASS, or the code of the channel waited at (+ 1
    as its sender); the number of the pass, or of the microbatch.
    """

    def __init__(
        self, index: int, schedule: Schedule, durations: Durations, pipes: Sequence[_Pipes], ready: deque[_Worker]
    ) -> None:
        self.index, self.unit, self.num_microbatches = index, schedule.units[index], schedule.num_microbatches
        self.now, self.num_passes = 0.0, 0
        self.ends: list[float] = []
        self.codes: list[int] = []
        self.numbers: list[int] = []
        self.asleep_on: tuple[_Channel, bool] | None = None
        self._ready = ready
        apart = [pipe for pipe in pipes if not pipe.hop.is_shared]
        self._up = _exchanges([(pipe.backward, pipe.forward) for pipe in apart if pipe.hop.units[1] == index])
        self._down = _exchanges([(pipe.forward, pipe.backward) for pipe in apart if pipe.hop.units[0] == index])
        self._forward = list(self._steps(schedule, durations, pipes, Direction.FORWARD))
        self._backward = list(self._steps(schedule, durations, pipes, Direction.BACKWARD))[::-1]
        self.run = self._run()

    def _steps(
        self, schedule: Schedule, durations: Durations, pipes: Sequence[_Pipes], way: Direction
    ) -> Iterator[float | Exchange]:
        """A pass in the order of the DAG: seconds of each stage, after what comes to its module on shared ranks."""
        stages = {stage.module: stage for stage in self.unit.stages}
        joined: dict[tuple[str, str], list[_Channel]] = {}
        for pipe in pipes:
            if pipe.hop.is_shared and self.index in pipe.hop.units:
                channel = pipe.forward if way is Direction.FORWARD else pipe.backward
                joined.setdefault((pipe.hop.src.module, pipe.hop.dst.module), []).append(channel)
        for name in schedule.modules:
            for (_, dst), channels in joined.items():
                if dst == name:
                    outs, ins = ([one for one in channels if one.party(sends) == self.index] for sends in (True, False))
                    yield outs, ins
            if name in stages:
                yield durations.passes[stages[name], way]

    def track(self) -> Track:
        """Until the last pass; a unit then waits for the others."""
        num_waits = self.codes[::-1].index(PASS)  # for what it sent last
        stop = len(self.codes) - num_waits
        return Track(tuple(self.ends[:stop]), tuple(self.codes[:stop]))

    def _run(self) -> Iterator[None]:
        for call, forward, backward in program(self.unit.num_warmup, self.num_microbatches):
            if call is Call.UPSTREAM:
                for outs, ins in self._up:
                    yield from self._exchange(outs if backward != NONE else (), ins if forward != NONE else ())
            elif call is Call.DOWNSTREAM:
                for outs, ins in self._down:
                    yield from self._exchange(outs if forward != NONE else (), ins if backward != NONE else ())
            else:
                for step in self._forward if call is Call.FORWARD else self._backward:
                    if isinstance(step, tuple):
                        yield from self._exchange(*step)
                    else:
                        self._compute(step)

    def _compute(self, seconds: float) -> None:
        self._add(self.now + seconds, PASS, self.num_passes)
        self.num_passes += 1

    def _exchange(self, outs: Sequence[_Channel], ins: Sequence[_Channel]) -> Iterator[None]:
        """Post everything, then wait for what is to be waited for."""
        last = len(self.ends) - 1
        for channel in outs:
            channel.offers.append(self.now)
            channel.offered_after.append(last)
            self._settle(channel)
        for channel in ins:
            channel.wants.append(self.now)
            channel.wanted_after.append(last)
            self._settle(channel)
        for channel in ins:
            k = len(channel.wants) - 1
            if len(channel.ends) <= k:
                self.asleep_on, channel.asleep = (channel, False), self
                yield
            self._arrive(channel.ends[k], channel.code, k)
        for channel in outs:
            if channel.waited:
                k = len(channel.offers) - 1
                if len(channel.ends) <= k:
                    self.asleep_on, channel.asleep = (channel, True), self
                    yield
                self._arrive(channel.ends[k], channel.code + 1, k)

    def _arrive(self, end: float, code: int, k: int) -> None:
        if end > self.now:
            self._add(end, code, k)

    def _add(self, end: float, code: int, number: int) -> None:
        self.now = end
        self.ends.append(end)
        self.codes.append(code)
        self.numbers.append(number)

    def _settle(self, channel: _Channel) -> None:
        """If both ends have come to the next microbatch: say when it arrives, and wake who waits for it."""
        k = len(channel.ends)
        if min(len(channel.offers), len(channel.wants)) <= k:
            return
        channel.ends.append(max(channel.offers[k], channel.wants[k]) + channel.seconds)
        if channel.asleep is not None:
            self._ready.append(channel.asleep)
            channel.asleep.asleep_on, channel.asleep = None, None


def _exchanges(pairs: Sequence[tuple[_Channel, _Channel]]) -> list[Exchange]:
    """Of (to send into, to receive from): what is posted together.

    Hops whose sends are posted are, all of them; those whose sends are waited for where they are of one edge or module:
    other units are other lanes of it.
    """
    found: dict[tuple[str, str] | None, Exchange] = {None: ([], [])}
    for pair in pairs:
        hop, waited = pair[0].hop, pair[0].waited
        together = found.setdefault((hop.src.module, hop.dst.module) if waited else None, ([], []))
        for channels, channel in zip(together, pair, strict=True):
            channels.append(channel)
    return [exchange for exchange in found.values() if exchange[0]]


# ---- afterwards


def _critical_path(workers: Sequence[_Worker], pipes: Sequence[_Pipes]) -> list[Segment]:
    """From the last operation back to the start: at each instant, what the next thing on the path waited for."""
    worker = max(workers, key=lambda worker: worker.now)
    passes: dict[int, list[tuple[Call, Stage, int]]] = {}
    at, found = len(worker.ends) - 1, []
    while at >= 0:
        end, code, number = worker.ends[at], worker.codes[at], worker.numbers[at]
        if code == PASS:
            if worker.index not in passes:
                passes[worker.index] = list(stage_passes(worker.unit, worker.num_microbatches))
            call, stage, microbatch = passes[worker.index][number]
            start = worker.ends[at - 1] if at else 0.0
            found.append(Segment(start, end, DIRECTIONS[call], microbatch, stage))
            at -= 1
            continue
        channel = pipes[code >> 2].backward if code & 2 else pipes[code >> 2].forward
        offer, want = channel.offers[number], channel.wants[number]
        if channel.seconds:
            found.append(Segment(max(offer, want), end, channel.direction, number, channel.hop))
        at = (channel.offered_after if offer >= want else channel.wanted_after)[number]
        worker = workers[channel.party(sends=offer >= want)]
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
