"""A timeline in the trace event format, which Perfetto (ui.perfetto.dev) and chrome://tracing read.

A module is a process, and a unit is a thread. An operation is a complete event ("ph": "X") with its start and duration
in microseconds; its arguments say what it waited for. A wait is an event of its own on the same thread, so that the
gaps of a pipeline can be searched as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...layout.ir import Direction
from .timeline import Operation, Timeline, Wait

MICROSECONDS = 1e6


def trace_text(timeline: Timeline) -> Iterator[str]:
    """The JSON document, in pieces to write one after the other: a line for all names, then one for each unit."""
    yield '{"displayTimeUnit": "ms", "traceEvents": [\n'
    separator = ""
    for events in _lines(timeline):
        yield separator + json.dumps(events)[1:-1]  # many events a call: there may be half a million
        separator = ",\n"
    yield "\n]}\n"


def _lines(timeline: Timeline) -> Iterator[list[dict[str, Any]]]:
    """The names of processes and threads, then the operations and waits of each unit."""
    units = timeline.schedule.units
    processes: dict[str, int] = {}
    for unit in units:
        for stage in unit.stages:
            processes.setdefault(stage.module, len(processes))
    names = [_name("process", module, process, 0) for module, process in processes.items()]
    for thread, unit in enumerate(units):
        ranks = f"rank {unit.ranks[0]}" if len(unit.ranks) == 1 else f"{len(unit.ranks)} ranks from {unit.ranks[0]}"
        names.append(_name("thread", f"{unit} ({ranks})", processes[unit.stages[0].module], thread))
    yield names
    for thread, unit in enumerate(units):
        reasons: dict[tuple[int, Direction, bool], str] = {}
        process = processes[unit.stages[0].module]
        operations = timeline.operations(thread)
        yield [event for one in operations for event in _events(one, process, thread, reasons)]


def _name(what: str, name: str, process: int, thread: int) -> dict[str, Any]:
    return {"ph": "M", "name": f"{what}_name", "pid": process, "tid": thread, "args": {"name": name}}


def _events(
    operation: Operation, process: int, thread: int, reasons: dict[tuple[int, Direction, bool], str]
) -> Iterator[dict[str, Any]]:
    """The waits before an operation, and the operation. `reasons` keeps what waits of the unit are called."""
    waited_for = []
    for wait in operation.waits:
        key = (id(wait.hop), wait.direction, wait.by_sender)
        reason = reasons.get(key) or reasons.setdefault(key, str(wait))
        waited_for.append(reason)
        yield _event(f"wait: {reason}", "wait", wait, process, thread)
    event = _event(
        f"{operation.stage.module} {operation.direction}", operation.direction.value, operation, process, thread
    )
    event["args"] = {
        "microbatch": operation.microbatch,
        "stage": operation.stage.index,
        "waited_for": waited_for,
    }
    yield event


def _event(name: str, category: str, what: Operation | Wait, process: int, thread: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": process,
        "tid": thread,
        "ts": what.start * MICROSECONDS,
        "dur": what.seconds * MICROSECONDS,
        "name": name,
        "cat": category,
    }
