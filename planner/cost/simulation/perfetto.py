"""A timeline in the trace event format, which Perfetto (ui.perfetto.dev) and chrome://tracing read.

A module is a process, and a unit is a thread. An operation is a complete event ("ph": "X") with its start and duration
in microseconds; its arguments say what it waited for. A wait is an event of its own on the same thread, so that the
gaps of a pipeline can be searched as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from .schedule import Unit
from .timeline import DIRECTIONS, PASS, Timeline, stage_passes

NANOSECONDS = 1e9


def trace_text(timeline: Timeline) -> Iterator[str]:
    """The JSON document, in pieces to write one after the other: a line for all names, then one for each unit."""
    yield '{"displayTimeUnit": "ms", "traceEvents": [\n'
    yield ",\n".join(map(", ".join, _lines(timeline)))
    yield "\n]}\n"


def _lines(timeline: Timeline) -> Iterator[Iterator[str]]:
    """The names of processes and threads, then the operations and waits of each unit."""
    units = timeline.schedule.units
    processes: dict[str, int] = {}
    for unit in units:
        for stage in unit.stages:
            processes.setdefault(stage.module, len(processes))
    yield _names(units, processes)
    reasons = {code: (json.dumps(f"wait: {one}"), json.dumps(str(one))) for code, one in timeline.reasons.items()}
    for thread, unit in enumerate(units):
        place = f'"pid": {processes[unit.stages[0].module]}, "tid": {thread}'
        yield _events(timeline, thread, place, reasons)


def _names(units: Sequence[Unit], processes: Mapping[str, int]) -> Iterator[str]:
    for module, process in processes.items():
        yield _name("process", module, process, 0)
    for thread, unit in enumerate(units):
        ranks = f"rank {unit.ranks[0]}" if len(unit.ranks) == 1 else f"{len(unit.ranks)} ranks from {unit.ranks[0]}"
        yield _name("thread", f"{unit} ({ranks})", processes[unit.stages[0].module], thread)


def _name(what: str, name: str, process: int, thread: int) -> str:
    return json.dumps({"ph": "M", "name": f"{what}_name", "pid": process, "tid": thread, "args": {"name": name}})


def _events(timeline: Timeline, thread: int, place: str, reasons: dict[int, tuple[str, str]]) -> Iterator[str]:
    """The waits and the operations of a unit. There may be half a million, so that columns become text right away.

    Args:
        timeline: the timeline.
        thread: the unit's index.
        place: the unit's process and thread, as JSON.
        reasons: for each code of waits, what such a wait is called, and its reason, as JSON.
    """
    passes = stage_passes(timeline.schedule.units[thread], timeline.schedule.num_microbatches)
    names = {
        (call, stage.module): f'"name": {json.dumps(f"{stage.module} {way}")}, "cat": "{way}"'
        for call, way in DIRECTIONS.items()
        for stage in timeline.schedule.units[thread].stages
    }
    waited_for: list[str] = []
    for start, end, code in timeline.tracks[thread]:
        ticks, stop = round(start * NANOSECONDS), round(end * NANOSECONDS)  # an event ends where the next one begins
        span = f'{{"ph": "X", {place}, "ts": {ticks / 1000:.3f}, "dur": {(stop - ticks) / 1000:.3f}'
        if code == PASS:
            call, stage, microbatch = next(passes)
            arguments = f'"microbatch": {microbatch}, "stage": {stage.index}, "waited_for": [{", ".join(waited_for)}]'
            yield f'{span}, {names[call, stage.module]}, "args": {{{arguments}}}}}'
            waited_for.clear()
        else:
            name, reason = reasons[code]
            yield f'{span}, "name": {name}, "cat": "wait"}}'
            waited_for.append(reason)
