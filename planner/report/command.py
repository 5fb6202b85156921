"""`mimo report`: the page, and the timeline as a trace.

Times come from `timeline_of`. It knows no hardware: every forward pass takes 1 and every backward pass 2, which shows
the order and the shape of the bubble; the page and the command say so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..plan import Plan

if TYPE_CHECKING:
    from ..cost.timeline import Timeline  # `mimo plan` imports this file and needs nothing of the cost model

_MANY_OPERATIONS = 200_000  # about a second of simulation


def add_report(
    commands: Any,
    add_world: Callable[[argparse.ArgumentParser], None],
    load: Callable[[str, argparse.Namespace], Plan],
    write: Callable[[str, str, str], None],
) -> None:
    """Add the command. The three functions are those of the other commands: options, reading and writing."""
    report = commands.add_parser("report", help="draw a plan as one self-contained HTML page")
    report.add_argument("spec", metavar="SPEC", help="spec (YAML) or plan (JSON); - reads standard input")
    report.add_argument("-o", "--out", metavar="FILE", help="the page; left out with --trace: no page")
    report.add_argument("--trace", metavar="FILE", help="the pipeline for ui.perfetto.dev or chrome://tracing")
    add_world(report)

    def run(options: argparse.Namespace) -> int:
        if options.out is None and options.trace is None:
            report.error("give -o FILE for the page, --trace FILE for the trace, or both")
        return _report(options, load(options.spec, options), write)

    report.set_defaults(run=run, strict=False)


def _report(options: argparse.Namespace, plan: Plan, write: Callable[[str, str, str], None]) -> int:
    from ..cost.simulate import DeadlockError  # noqa: PLC0415  only this command needs them
    from ..cost.trace import trace_text  # noqa: PLC0415
    from ..loader import file_name  # noqa: PLC0415
    from .build import build_report  # noqa: PLC0415
    from .page import render_page  # noqa: PLC0415

    timeline, stops = None, []
    try:
        timeline = timeline_of(plan)
    except DeadlockError as error:
        stops.append(f"no timeline: {error}")
        print(f"mimo: {stops[0]}", file=sys.stderr)
    if options.out is not None:
        page = build_report(plan, file_name(options.spec), timeline=timeline, is_predicted=False, warnings=tuple(stops))
        write(options.out, render_page(page), options.spec)
    if options.trace is not None and timeline is not None:
        write(options.trace, "".join(trace_text(timeline)), options.spec)
    return 0 if timeline or options.trace is None else 1


def timeline_of(plan: Plan) -> Timeline:
    """The timeline of the page. Raises DeadlockError."""
    from ..cost.durations import Durations  # noqa: PLC0415
    from ..cost.simulate import simulate  # noqa: PLC0415

    passes = 2 * plan.batch.num_microbatches * sum(module.num_stages for module in plan.modules)
    if passes > _MANY_OPERATIONS:
        print(f"simulating {passes:,} operations ...", file=sys.stderr, flush=True)
    return simulate(plan, Durations.uniform(plan))
