"""`mimo report`: the page, and the timeline as a trace.

Times are predicted if every module has a model. If one has none, every forward pass takes 1 and every backward pass 2:
that shows the order of the passes and the shape of the bubble, and both the page and the command say so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from ..base.printable import printable
from .options import (
    add_format,
    add_gpu,
    add_spec,
    add_strict,
    add_world,
    load,
    memory_warnings_of,
    notes_of,
    warnings_of,
)
from .output import STDOUT, Output, announce, outputs_of, print_faults, tell

if TYPE_CHECKING:
    from ..base.errors import Fault
    from ..cost.prediction import Prediction
    from ..cost.simulation.timeline import Timeline
    from ..plan import Plan
    from ..report.content import Report


def add(commands: Any) -> None:
    """Add the command."""
    report = commands.add_parser("report", help="draw a plan as one self-contained HTML page")
    add_spec(report)
    report.add_argument("-o", "--out", metavar="FILE", help="where to write the page")
    report.add_argument(
        "--trace", metavar="FILE", help="where to write the pipeline for ui.perfetto.dev or chrome://tracing"
    )
    report.add_argument("--open", action="store_true", help="open the page in a browser")
    add_gpu(report)
    add_world(report)
    add_strict(report)
    add_format(report)

    def run(options: argparse.Namespace) -> int:
        if options.out is None and options.trace is None:
            report.error("give -o FILE for the page, --trace FILE for the trace, or both")
        if options.open and options.out in (None, STDOUT):
            report.error("--open opens the page: give -o FILE as well")
        out, trace = outputs_of({"--out": options.out, "--trace": options.trace}, options.spec, options.gpu)
        return _report(options, load(options.spec, options), out, trace)

    report.set_defaults(run=run)


def _report(options: argparse.Namespace, plan: Plan, out: Output | None, trace: Output | None) -> int:
    from ..cost.simulation.perfetto import trace_text  # noqa: PLC0415
    from ..cost.simulation.simulate import DeadlockError  # noqa: PLC0415
    from ..report.page import render_page  # noqa: PLC0415
    from ..spec.loader import file_name  # noqa: PLC0415

    warnings_of(plan, options)
    announce(plan, options)
    is_sized = all(module.model for module in plan.modules)
    too_large = _too_large(plan, is_sized=is_sized)
    prediction = None if too_large else predicted(plan, options.gpu)
    notes = notes_of(plan, prediction) if prediction else ()
    if prediction:
        print_faults((*memory_warnings_of(plan, options, prediction), *notes), options)
    timeline, stops = prediction.timeline if prediction else None, prediction.deadlock if prediction else too_large
    if not is_sized and not too_large:
        missing = ", ".join(module.name for module in plan.modules if module.model is None)
        tell(f"no model is given for {missing}: the pipeline is drawn without times", options)
        try:
            timeline = drawn(plan)
        except DeadlockError as error:
            stops = str(error)
    if stops:
        tell(f"no timeline: {stops}", options)
    if out:
        out.write(render_page(content_of(plan, file_name(options.spec), prediction, timeline, stops, notes)))
    if trace and timeline is not None:
        trace.write("".join(trace_text(timeline)))
    _tell([one for one in (out, trace if timeline else None) if one], options)
    return 0 if timeline or not trace else 1


def _tell(written: list[Output], options: argparse.Namespace) -> None:
    """Say what was written, to standard error if that is a terminal, and open the page if it is wanted."""
    files = [one.given for one in written if not one.is_stdout]
    if options.format == "json" and len(files) == len(written):  # else standard output holds one of them
        print(json.dumps({"wrote": files}))
    elif files and sys.stderr.isatty():
        print("wrote", " and ".join(map(printable, files)), file=sys.stderr)
    if options.open:
        import webbrowser  # noqa: PLC0415

        if not webbrowser.open(f"file://{os.path.abspath(options.out)}"):
            tell("no browser is found here: open the page by hand", options)


def _too_large(plan: Plan, *, is_sized: bool) -> str:
    """Why a plan cannot be predicted or, if it has no sizes, simulated; empty if it can."""
    from ..base.errors import PlanError  # noqa: PLC0415
    from ..cost.timing.bounds import check_prediction, check_timeline  # noqa: PLC0415

    try:
        (check_prediction if is_sized else check_timeline)(plan)
    except PlanError as error:
        return "; ".join(fault.rule for fault in error.faults)
    return ""


def predicted(plan: Plan, gpu: str | None = None) -> Prediction | None:
    """The prediction of a plan; None if a module has no model. Raises PlanError if the GPU is not known."""
    from ..cost.predict import predict  # noqa: PLC0415
    from ..cost.timing.hardware import load_hardware  # noqa: PLC0415

    if any(module.model is None for module in plan.modules):
        return None
    return predict(plan, load_hardware(gpu) if gpu else None)


def drawn(plan: Plan) -> Timeline:
    """The pipeline if all stages took the same time. Raises DeadlockError."""
    from ..cost.simulation.durations import Durations  # noqa: PLC0415
    from ..cost.simulation.simulate import simulate  # noqa: PLC0415

    return simulate(plan, Durations.uniform(plan))


def content_of(
    plan: Plan,
    name: str,
    prediction: Prediction | None,
    timeline: Timeline | None,
    stops: str,
    notes: tuple[Fault, ...] = (),
) -> Report:
    """The page's content: everything that is predicted or, without a prediction, the drawn pipeline alone."""
    from ..report.build import build_report  # noqa: PLC0415
    from ..report.content import Notice  # noqa: PLC0415
    from ..report.costs import figures_of, memory_of, notices_of, traffic_of  # noqa: PLC0415

    if prediction is None:
        notices = (Notice(f"no timeline: {stops}", is_problem=True),) if stops else ()
        return build_report(plan, name, timeline=timeline, is_predicted=False, notices=notices)
    return build_report(
        plan,
        name,
        timeline=timeline,
        memory=memory_of(plan, prediction),
        traffic=tuple(traffic_of(prediction)),
        facts=tuple(figures_of(prediction)),
        notices=(*notices_of(prediction), *(Notice(str(note)) for note in notes)),
    )
