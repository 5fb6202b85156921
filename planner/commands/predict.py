"""`mimo predict`: what a plan will take, or every run in a CSV file."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from ..base import codes
from ..base.errors import Fault, Mark, PlanError, limited
from .options import (
    MisuseError,
    add_color,
    add_format,
    add_gpu,
    add_root,
    add_strict,
    add_world,
    load,
    memory_warnings_of,
    notes_of,
    warnings_of,
    with_gains,
)
from .output import announce, print_faults, progress

if TYPE_CHECKING:
    from ..cost.measured.csv_file import Runs
    from ..cost.timing.hardware import Hardware

_MANY_RUNS = 100  # more take about a second or longer


def add(commands: Any) -> None:
    """Add the command to the parser."""
    predict = commands.add_parser("predict", help="predict the time, memory and traffic of a plan")
    predict.add_argument(
        "spec", metavar="SPEC", nargs="?", help="a spec (YAML) or a plan (JSON); - reads standard input"
    )
    predict.add_argument("--csv", metavar="FILE", help="predict every row of a file of runs instead")
    add_root(predict)
    add_gpu(predict)
    add_format(predict)
    add_world(predict)
    add_strict(predict)
    add_color(predict)
    predict.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> int:
    if (options.spec is None) == (options.csv is None):
        raise MisuseError("predict takes either a SPEC or --csv FILE")
    from ..cost.timing.hardware import load_hardware  # noqa: PLC0415

    hardware = load_hardware(options.gpu) if options.gpu else None
    if options.csv is not None:
        if options.format == "json" or options.strict or options.world_size or options.nodes or options.gpus_per_node:
            raise MisuseError("--csv prints CSV, and the rows say the layout: beside it are --gpu and --root")
        return _predict_runs(options, hardware)
    if options.root is not None:
        raise MisuseError("--root is for the files that rows name: give it with --csv")
    return _predict_spec(options, hardware)


def _predict_runs(options: argparse.Namespace, hardware: Hardware | None) -> int:
    """Print the rows with their predictions, then raise PlanError with what is wrong with rows at fault."""
    from ..cost.measured.predict import predict_runs, predictions_text  # noqa: PLC0415
    from ..cost.timing.hardware import DEFAULT  # noqa: PLC0415
    from ..render.fits import accuracy_lines  # noqa: PLC0415
    from ..render.style import plural  # noqa: PLC0415

    runs = read_runs(options.csv, options.root)
    told = progress(f"predicting {len(runs.rows)} runs", options) if len(runs.rows) > _MANY_RUNS else None
    found = predict_runs(runs, hardware, told)
    sys.stdout.write(predictions_text(found))
    sys.stdout.flush()
    if found.num_assumed:
        rows = plural(found.num_assumed, "row")
        print(f"{DEFAULT} is assumed for {rows}, whose spec names no cluster.gpu: give --gpu", file=sys.stderr)
    for line in accuracy_lines(found):
        print(line, file=sys.stderr)
    if found.faults:
        raise limited(found.faults)
    return 0


def _predict_spec(options: argparse.Namespace, hardware: Hardware | None) -> int:
    from ..cost.predict import predict  # noqa: PLC0415
    from ..render.costs import costs_document, costs_text  # noqa: PLC0415
    from ..render.style import stdout_style  # noqa: PLC0415
    from ..spec.loader import file_name  # noqa: PLC0415

    if options.spec.endswith(".csv"):
        raise MisuseError(f"{options.spec} is a file of runs, not a spec: predict --csv {options.spec}")
    plan = load(options.spec, options)
    warnings = warnings_of(plan, options)
    if not any(module.model for module in plan.modules):
        rule, mark = "a prediction needs sizes; no module has a model", Mark(file_name(options.spec), 1, 1)
        remedy = "add `model:` with a preset or sizes to the modules"
        print_faults(warnings, options)
        raise PlanError([Fault(codes.MISSING_KEY, ("modules",), rule, remedy, mark)])
    announce(plan, options)
    try:
        prediction = predict(plan, hardware)
    except PlanError as error:
        print_faults(warnings, options)
        raise _placed(error, file_name(options.spec)) from None
    print_faults(with_gains(plan, prediction, warnings), options)
    print_faults((*memory_warnings_of(plan, options, prediction), *notes_of(plan, prediction)), options)
    if options.format == "json":
        print(json.dumps(costs_document(prediction), indent=2))
    else:
        sys.stdout.write(costs_text(prediction, file_name(options.spec), stdout_style(options.color)))
    return 0


def _placed(error: PlanError, file: str) -> PlanError:
    """The error, with its faults of a plan that has no places said to be of a file."""
    import attrs  # noqa: PLC0415

    faults = (attrs.evolve(fault, mark=fault.mark or Mark(file, 1, 1)) for fault in error.faults)
    return PlanError(faults, error.num_left_out)


def read_runs(path: str, root: str | None = None) -> Runs:
    """The runs in a CSV file, which may name files below `root`.

    Raises:
        PlanError: with what is wrong with its text and its header.
        MisuseError: `root` is no directory, or the file is too long.
    """
    import os  # noqa: PLC0415

    import attrs  # noqa: PLC0415

    from ..cost.measured.csv_file import read_runs  # noqa: PLC0415
    from ..spec.loader import decode, file_name, read_bytes  # noqa: PLC0415

    if root is not None and not os.path.isdir(root):
        raise MisuseError(f"--root {root} is no directory: name the one below which files may be read")
    limit = 16 * 2**20
    try:
        data = read_bytes(path, limit)
        if len(data) > limit:
            raise MisuseError(f"{path} has more than {limit} bytes: check that it is a file of runs")
        return attrs.evolve(read_runs(decode(data, file_name(path)), file_name(path)), root=root)
    except PlanError as error:
        raise error.of("runs") from None
