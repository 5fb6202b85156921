"""A timeline in the trace event format, which Perfetto (ui.perfetto.dev) and chrome://tracing read.

A module is a process, and a unit is a thread. An operation is a complete event ("ph": "X") with its start and duration
in microseconds; its arguments say what it waited for. A wait is an event of its own on the same thread, so that the
gaps of a pipeline can be searched as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .timeline import Operation, Timeline, Wait

MICROSECONDS = 1e6


def trace_text(timeline: Timeline) -> Iterator[str]:
    """The JSON document, in pieces to write one after the other."""
    yield '{"displayTimeUnit": "ms", "traceEvents": [\n'
    separator = ""
    for event in trace_events(timeline):
        yield separator + json.dumps(event)
        separator = ",\n"
    yield "\n]}\n"


def trace_events(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """The names of processes and threads, then every operation and wait, unit by unit."""
    units = timeline.schedule.units
    modules = list(dict.fromkeys(stage.module for unit in units for stage in unit.stages))
    for process, module in enumerate(modules):
        yield _name("process", module, process, 0)
    for thread, unit in enumerate(units):
        process = modules.index(unit.stages[0].module)
        ranks = f"rank {unit.ranks[0]}" if len(unit.ranks) == 1 else f"{len(unit.ranks)} ranks from {unit.ranks[0]}"
        yield _name("thread", f"{unit} ({ranks})", process, thread)
    for thread, unit in enumerate(units):
        process = modules.index(unit.stages[0].module)
        for operation in timeline.operations(thread):
            yield from _events(operation, process, thread)


def _name(what: str, name: str, process: int, thread: int) -> dict[str, Any]:
    return {"ph": "M", "name": f"{what}_name", "pid": process, "tid": thread, "args": {"name": name}}


def _events(operation: Operation, process: int, thread: int) -> Iterator[dict[str, Any]]:
    at = {"ph": "X", "pid": process, "tid": thread}
    for wait in operation.waits:
        yield at | _times(wait) | {"name": f"wait: {wait}", "cat": "wait"}
    yield (
        at
        | _times(operation)
        | {
            "name": f"{operation.stage.module} {operation.direction}",
            "cat": operation.direction.value,
            "args": {
                "microbatch": operation.microbatch,
                "stage": operation.stage.index,
                "waited_for": [str(wait) for wait in operation.waits],
            },
        }
    )


def _times(what: Operation | Wait) -> dict[str, float]:
    return {"ts": what.start * MICROSECONDS, "dur": what.seconds * MICROSECONDS}
