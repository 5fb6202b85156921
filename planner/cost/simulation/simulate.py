"""Plan + durations -> timeline: an event simulation of the 1F1B schedule.

What is modelled: a unit (schedule.py) does one thing at a time, in the order of its program. Tensors start to move
when both ends have reached the call that moves them, and arrive after the seconds of the hop: megatron-core's
non-interleaved schedule overlaps no communication with computation, and posts a receive only when it needs the tensors.
A receive holds its unit until the tensors are there. A send is one of two kinds:

- WAITED: the send holds its unit as well, until the tensors have been taken. Sends within a module's pipeline are of
  this kind (`P2PCommunicator._communicate` waits for every request, for both directions of a call together). So are
  sends inside a pass, between modules that share ranks, and those of megatron-core's own bridges, one edge after the
  other.
- POSTED: the unit goes on at once, and all edges of a call move at the same time. Our bridges do this.

With waited sends over edges, a schedule whose branches differ by two stages or more stops for good: the short branch
wants to hand on its next microbatch, while its destination wants to hand back a gradient first. `simulate` then says
which unit waits for which.

What is not modelled: lanes that differ, messages that share a link, and collectives of tensor parallelism apart from
the passes that they belong to. The behaviour is that of megatron-core 0.19.2, pipeline_parallel/schedules.py,
p2p_communication.py and bridge_communicator.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import StrEnum

from ...plan import Plan
from .durations import Durations
from .schedule import Call, Hop, Schedule, Stage, schedule_of
from .timeline import DIRECTIONS, PASS, Segment, Timeline, decode_wait, stage_passes
from .unit import Pipes, Worker


class Sends(StrEnum):
    """Whether a sender goes on before its tensors have been taken."""

    WAITED = "waited"
    POSTED = "posted"


class DeadlockError(RuntimeError):
    """The schedule stops for good, because units wait for each other in a circle.

    Attributes:
        waiting: what each of these units waits for, in words.
        rule: what is wrong, with what each unit waits for.
        remedy: what to change.
    """

    def __init__(self, waiting: tuple[str, ...], remedy: str) -> None:
        self.waiting, self.remedy = waiting, remedy
        self.rule = f"the schedule stops for good: {'; '.join(waiting)}"
        super().__init__(f"{self.rule}; fix: {remedy}")


_REMEDIES = {
    Sends.POSTED: "give modules that share ranks ranks of their own, or pp: 1",  # no other layout stops
    Sends.WAITED: "post the sends over edges",
}


def simulate(plan: Plan, durations: Durations, *, edges: Sends = Sends.POSTED, hops: Sends = Sends.WAITED) -> Timeline:
    """Simulate one step of a plan.

    Args:
        plan: the plan.
        durations: seconds of every pass and transfer; see `Durations.of`.
        edges: the kind of sends between modules on ranks of their own.
        hops: the kind of sends between the stages of one module.

    Raises:
        DeadlockError: some units wait for each other in a circle.
        KeyError: a duration is missing.
    """

    def is_waited(hop: Hop) -> bool:
        return hop.is_shared or (edges if hop.is_edge else hops) is Sends.WAITED

    schedule = schedule_of(plan)
    pipes = [Pipes.of(hop, i, durations, waited=is_waited(hop)) for i, hop in enumerate(schedule.hops)]
    touching: list[list[Pipes]] = [[] for _ in schedule.units]
    for pipe in pipes:
        for index in set(pipe.hop.units):
            touching[index].append(pipe)
    ready: deque[Worker] = deque()
    workers = [Worker(index, schedule, durations, own, ready) for index, own in enumerate(touching)]
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


def _critical_path(workers: Sequence[Worker], pipes: Sequence[Pipes]) -> list[Segment]:
    """The critical path, found from the last operation back to the start.

    Before a pass comes what its unit did before it. Before tensors that cross a hop comes the last event of the end
    that came later, the sender or the receiver.
    """
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
        hop, direction, _ = decode_wait(code)
        channel = pipes[hop].channel(direction)
        offer, want = channel.offers[number], channel.wants[number]
        if channel.seconds:
            found.append(Segment(max(offer, want), end, channel.direction, number, channel.hop))
        at = (channel.offered_after if offer >= want else channel.wanted_after)[number]
        worker = workers[channel.unit_at(sends=offer >= want)]
    return found[::-1]


def _circle(workers: Sequence[Worker], schedule: Schedule) -> tuple[str, ...]:
    """What each unit of a circle waits for, in words.

    The walk begins at any unit that sleeps and goes on to the unit that it waits for, until it comes to one again.
    """
    seen: list[int] = []
    at = next(worker.index for worker in workers if worker.asleep_on)
    while at not in seen:
        seen.append(at)
        waits = workers[at].asleep_on
        if waits is None:
            break  # the unit ended without sending what another waits for, which no schedule does
        at = waits[0].unit_at(not waits[1])
    return tuple(_wait_in_words(workers[index], schedule) for index in seen[seen.index(at) :])


def _wait_in_words(worker: Worker, schedule: Schedule) -> str:
    waits = worker.asleep_on
    if waits is None:
        return f"{worker.unit} has ended"
    channel, as_sender = waits
    what = channel.direction.tensors
    other = schedule.units[channel.unit_at(not as_sender)]
    microbatch = len(channel.ends)
    verb = (
        f"to hand {what} of microbatch {microbatch} to" if as_sender else f"for {what} of microbatch {microbatch} from"
    )
    return f"{worker.unit} waits {verb} {other}"
