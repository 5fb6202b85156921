"""Law: a trace says what the timeline says, in the trace event format."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from planner.cost.simulation.durations import Durations
from planner.cost.simulation.perfetto import trace_text
from planner.cost.simulation.simulate import simulate
from planner.testing import PlanOf
from tests.planner.report_samples import EXAMPLE, seconds


def test_every_operation_and_wait_is_an_event(plan_of: PlanOf) -> None:
    plan = plan_of(EXAMPLE)
    found = simulate(plan, Durations.of(plan, seconds, lambda _: 0.001, lambda *_: 0.002))
    document = json.loads("".join(trace_text(found)))
    events = [event for event in document["traceEvents"] if event["ph"] == "X"]
    for index, unit in enumerate(found.schedule.units):
        mine = [event for event in events if event["tid"] == index]
        passes = [event for event in mine if event["cat"] != "wait"]
        assert [event["args"]["microbatch"] for event in passes] == [one.microbatch for one in found.operations(index)]
        assert sum(event["dur"] for event in passes) == pytest.approx(found.busy[index] * 1e6)
        waited = sum(event["dur"] for event in mine if event["cat"] == "wait")
        rest = found.makespan - found.tracks[index].end
        assert waited == pytest.approx((found.makespan - found.busy[index] - rest) * 1e6)
        assert all(_nanoseconds(one["ts"], one["dur"]) == _nanoseconds(other["ts"]) for one, other in pairwise(mine))
        assert str(unit) in _names(document, "thread_name")[index]
    assert set(_names(document, "process_name").values()) == {"images", "audio", "language"}


def _nanoseconds(*microseconds: float) -> int:
    return sum(round(each * 1000) for each in microseconds)


def _names(document: dict[str, list[dict[str, object]]], kind: str) -> dict[int, str]:
    key = "tid" if kind == "thread_name" else "pid"
    named = [event for event in document["traceEvents"] if event["name"] == kind]
    return {event[key]: event["args"]["name"] for event in named}  # type: ignore[index, misc]
