"""A unit at work: it runs its program, and tensors cross the channels between it and other units.

Workers share nothing but channels. A channel keeps, for each microbatch, when its sender and its receiver came to it,
and from that when the microbatch has been taken. A worker that must wait for that goes to sleep; the worker that comes
to the other end wakes it (simulate.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from ...base.frozen import frozen
from ...layout.ir import Direction
from .durations import Durations
from .schedule import NONE, Call, Hop, Schedule, program
from .timeline import PASS, Track, encode_wait


class Channel:
    """One hop in one direction. Microbatches cross it in order.

    Attributes:
        hop: the hop.
        direction: the direction in which the tensors move.
        receiver_code, sender_code: the wait of the receiver and that of the sender, as in `Track.codes`.
        seconds: how long a microbatch is on its way.
        waited: whether a sender waits until its tensors have been taken.
        offers, wants: for each microbatch, when the sender and the receiver came to the channel.
        offered_after, wanted_after: for each microbatch, the index of the last event of the sender, and of the
            receiver, before that.
        ends: for each microbatch, when it has been taken.
        asleep: the worker that waits here, at either end; None if none does.
    """

    __slots__ = (
        "asleep", "direction", "ends", "hop", "offered_after", "offers", "receiver_code", "seconds", "sender_code",
        "waited", "wanted_after", "wants",
    )  # fmt: skip

    def __init__(self, hop: Hop, index: int, direction: Direction, seconds: float, waited: bool) -> None:
        self.hop, self.direction, self.seconds, self.waited = hop, direction, seconds, waited
        self.receiver_code = encode_wait(index, direction, by_sender=False)
        self.sender_code = encode_wait(index, direction, by_sender=True)
        self.offers: list[float] = []
        self.wants: list[float] = []
        self.offered_after: list[int] = []
        self.wanted_after: list[int] = []
        self.ends: list[float] = []
        self.asleep: Worker | None = None

    def unit_at(self, sends: bool) -> int:
        """The index of the unit that sends, or of the unit that receives."""
        return self.hop.units[0] if (self.direction is Direction.FORWARD) == sends else self.hop.units[1]


@frozen
class Pipes:
    """Both channels of a hop."""

    hop: Hop
    forward: Channel
    backward: Channel

    @classmethod
    def of(cls, hop: Hop, index: int, durations: Durations, waited: bool) -> Pipes:
        src, dst = hop.src.module, hop.dst.module
        forward, backward = (
            Channel(hop, index, way, durations.edges[src, dst, way] if hop.is_edge else durations.hops[hop.src], waited)
            for way in Direction
        )
        return cls(hop, forward, backward)

    def channel(self, direction: Direction) -> Channel:
        """The channel of one direction."""
        return self.forward if direction is Direction.FORWARD else self.backward


Exchange = tuple[list[Channel], list[Channel]]
"""(channels to send into, channels to receive from): all are posted before any is waited for."""


class Worker:
    """A unit on its way through its program, with the pipes that end at it, in the order of the schedule.

    What it has done are its *events*: passes and waits. They are kept as columns, because the garbage collector would
    look at a few hundred thousand tuples again and again.

    Attributes:
        index: the unit's index in the schedule.
        unit: the unit.
        num_microbatches: microbatches of a step.
        now: when the last event ended.
        num_passes: the number of passes so far.
        ends: when each event ended, which is when the next began.
        codes: PASS, or the code of the wait, as in `Track.codes`.
        numbers: the number of the pass, or the microbatch that was waited for.
        asleep_on: the channel that the worker waits for, and whether it is the sender; None if it does not wait.
        run: the program, an iterator that gives control back when the worker must wait, and stops at its end.
    """

    def __init__(
        self, index: int, schedule: Schedule, durations: Durations, pipes: Sequence[Pipes], ready: deque[Worker]
    ) -> None:
        self.index, self.unit, self.num_microbatches = index, schedule.units[index], schedule.num_microbatches
        self.now, self.num_passes = 0.0, 0
        self.ends: list[float] = []
        self.codes: list[int] = []
        self.numbers: list[int] = []
        self.asleep_on: tuple[Channel, bool] | None = None
        self._ready = ready
        apart = [pipe for pipe in pipes if not pipe.hop.is_shared]
        self._up = _exchanges([(pipe.backward, pipe.forward) for pipe in apart if pipe.hop.units[1] == index])
        self._down = _exchanges([(pipe.forward, pipe.backward) for pipe in apart if pipe.hop.units[0] == index])
        self._forward = list(self._steps(schedule, durations, pipes, Direction.FORWARD))
        self._backward = list(self._steps(schedule, durations, pipes, Direction.BACKWARD))[::-1]
        self.run = self._run()

    def _steps(
        self, schedule: Schedule, durations: Durations, pipes: Sequence[Pipes], way: Direction
    ) -> Iterator[float | Exchange]:
        """The steps of a pass, in the order of the DAG.

        They are the seconds of each stage and, before them, the exchanges in which its module takes what comes from
        modules on shared ranks.
        """
        stages = {stage.module: stage for stage in self.unit.stages}
        shared: dict[tuple[str, str], list[Channel]] = {}
        for pipe in pipes:
            if pipe.hop.is_shared:
                channel = pipe.forward if way is Direction.FORWARD else pipe.backward
                shared.setdefault((pipe.hop.src.module, pipe.hop.dst.module), []).append(channel)
        for name in schedule.modules:
            for (_, dst), channels in shared.items():
                if dst == name:
                    outs, ins = (
                        [one for one in channels if one.unit_at(sends) == self.index] for sends in (True, False)
                    )
                    yield outs, ins
            if name in stages:
                yield durations.passes[stages[name], way]

    def track(self) -> Track:
        """The unit's track, up to its last pass. What it waits for after that is the end of the step."""
        num_waits = self.codes[::-1].index(PASS)  # waits after the last pass, for its last tensors to be taken
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

    def _exchange(self, outs: Sequence[Channel], ins: Sequence[Channel]) -> Iterator[None]:
        """Post all channels, then wait for what comes, and for what is sent over channels that are waited for."""
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
            microbatch = len(channel.wants) - 1
            if len(channel.ends) <= microbatch:
                self.asleep_on, channel.asleep = (channel, False), self
                yield
            self._arrive(channel.ends[microbatch], channel.receiver_code, microbatch)
        for channel in outs:
            if channel.waited:
                microbatch = len(channel.offers) - 1
                if len(channel.ends) <= microbatch:
                    self.asleep_on, channel.asleep = (channel, True), self
                    yield
                self._arrive(channel.ends[microbatch], channel.sender_code, microbatch)

    def _arrive(self, end: float, code: int, microbatch: int) -> None:
        if end > self.now:
            self._add(end, code, microbatch)

    def _add(self, end: float, code: int, number: int) -> None:
        self.now = end
        self.ends.append(end)
        self.codes.append(code)
        self.numbers.append(number)

    def _settle(self, channel: Channel) -> None:
        """If both ends have come to the next microbatch, note when it has been taken and wake the worker that waits."""
        microbatch = len(channel.ends)
        if min(len(channel.offers), len(channel.wants)) <= microbatch:
            return
        channel.ends.append(max(channel.offers[microbatch], channel.wants[microbatch]) + channel.seconds)
        if channel.asleep is not None:
            self._ready.append(channel.asleep)
            channel.asleep.asleep_on, channel.asleep = None, None


def _exchanges(pairs: Sequence[tuple[Channel, Channel]]) -> list[Exchange]:
    """The exchanges of one call of the schedule, from pairs of (channel to send into, channel to receive from).

    All hops whose senders do not wait are posted together. Hops whose senders wait are posted together if they belong
    to the same edge or module: other units are then other lanes of it.
    """
    found: dict[tuple[str, str] | None, Exchange] = {None: ([], [])}
    for pair in pairs:
        hop, waited = pair[0].hop, pair[0].waited
        together = found.setdefault((hop.src.module, hop.dst.module) if waited else None, ([], []))
        for channels, channel in zip(together, pair, strict=True):
            channels.append(channel)
    return [exchange for exchange in found.values() if exchange[0]]
