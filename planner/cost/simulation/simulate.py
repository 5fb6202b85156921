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

    def is_waited(hop: Hop) -> bool:
        return hop.is_shared or (edges if hop.is_edge else hops) is Sends.WAITED

    schedule = schedule_of(plan)
    pipes = [Pipes.of(hop, i, durations, waited=is_waited(hop)) for i, hop in enumerate(schedule.hops)]
    ready: deque[Worker] = deque()
    workers = [Worker(index, schedule, durations, pipes, ready) for index in range(len(schedule.units))]
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
        hop, direction, _ = decode_wait(code)
        channel = pipes[hop].channel(direction)
        offer, want = channel.offers[number], channel.wants[number]
        if channel.seconds:
            found.append(Segment(max(offer, want), end, channel.direction, number, channel.hop))
        at = (channel.offered_after if offer >= want else channel.wanted_after)[number]
        worker = workers[channel.party(sends=offer >= want)]
    return found[::-1]


def _circle(workers: Sequence[Worker], schedule: Schedule) -> tuple[str, ...]:
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


def _wait_in_words(worker: Worker, schedule: Schedule) -> str:
    waits = worker.asleep_on
    if waits is None:
        return f"{worker.unit} has ended"
    channel, as_sender = waits
    what = channel.direction.tensors
    other = schedule.units[channel.party(not as_sender)]
    k = len(channel.ends)
    verb = f"to hand {what} of microbatch {k} to" if as_sender else f"for {what} of microbatch {k} from"
    return f"{worker.unit} waits {verb} {other}"
