"""`mimo calibrate`: fit the constants of a GPU to measured runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..base.printable import printable
from .options import MisuseError, add_format, add_root
from .output import STDOUT, Output, output_of, progress
from .predict import read_runs

if TYPE_CHECKING:
    from ..cost.measured.calibrate import Sample
    from ..cost.measured.csv_file import Runs
    from ..cost.timing.hardware import Hardware


def add(commands: Any) -> None:
    """Add the command to the parser."""
    calibrate = commands.add_parser("calibrate", help="fit a GPU's constants to measured runs")
    calibrate.add_argument(
        "runs", metavar="CSV", nargs="+", help="files of measured runs; each counts alike (docs/measured-runs.md)"
    )
    add_root(calibrate)
    calibrate.add_argument(
        "--gpu",
        metavar="NAME",
        help="GPU, or a hardware file (.yaml), whose constants are fitted (default: the GPU that the runs name)",
    )
    calibrate.add_argument(
        "--leave-out",
        metavar="COLUMNS",
        help="cross-validate as well: predict the runs with equal values in these columns by a fit to all others",
    )
    calibrate.add_argument("-o", "--out", metavar="FILE", help="write the hardware file to FILE (.yaml)")
    add_format(calibrate)
    calibrate.set_defaults(run=_calibrate)


def _calibrate(options: argparse.Namespace) -> int:
    from ..cost.measured.accuracy import samples_of  # noqa: PLC0415
    from ..cost.measured.calibrate import calibrate, fitted, influence, unfitted  # noqa: PLC0415
    from ..cost.timing.hardware import hardware_text, load_hardware  # noqa: PLC0415
    from ..render.fits import error_lines, fit_document, fit_lines  # noqa: PLC0415
    from ..render.style import plural, style_of  # noqa: PLC0415

    out = _output(options)
    if options.format == "json" and out.is_stdout:
        raise MisuseError("--format json prints the fit to standard output: give -o FILE for the hardware file")
    files = [read_runs(path, options.root) for path in options.runs]
    samples = [samples_of(runs) for runs in files]
    hardware = load_hardware(options.gpu or _gpu_of(samples))
    out.check_inputs()  # of all that cells name, and before the fit takes its time
    if not fitted(hardware):
        raise MisuseError(f"no constant of {hardware.name} has a `start`: give one to each that is to be fitted")
    groups = _left_out(files, options.leave_out)
    num_runs = sum(map(len, samples))
    found = calibrate(hardware, samples, progress=progress(f"fitting to {plural(num_runs, 'run')}", options))
    if options.format == "text":
        lines = fit_lines(hardware, found, influence(unfitted(hardware), samples), num_runs, style_of(sys.stderr))
        print(*lines, *error_lines(options.runs, samples, found), sep="\n", file=sys.stderr)
    held_out = _cross_validated(hardware, options, samples, groups) if groups else None
    out.write(hardware_text(found))
    if options.format == "json":
        print(json.dumps(fit_document(found, options.runs, samples, held_out), indent=2))
    return 0


def _output(options: argparse.Namespace) -> Output:
    """Where the hardware file goes. Raises MisuseError if it could not be written, or could not be read again."""
    out = output_of("--out", STDOUT if options.out is None else options.out, *options.runs, options.gpu)
    if not out.is_stdout and not out.given.endswith((".yaml", ".yml")):
        rule = "the name of a hardware file ends in .yaml or .yml, so that --gpu takes it"
        raise MisuseError(f"--out {out.given}: {rule}")
    return out


def _gpu_of(samples: Sequence[Sequence[Sample]]) -> str:
    """The GPU that all runs name. Raises MisuseError if they do not name one and the same."""
    found = {one.work.plan.gpu for each in samples for one in each}
    if None in found:
        raise MisuseError("not every run names its GPU (cluster.gpu): name it with --gpu")
    gpus = sorted(gpu for gpu in found if gpu)
    if len(gpus) > 1:
        raise MisuseError(f"the runs are of {' and '.join(gpus)}: calibrate one GPU at a time, or name it with --gpu")
    return gpus[0]


def _left_out(files: Sequence[Runs], columns: str | None) -> list[list[tuple[str, ...]]]:
    """The key of each run, by file: its cells in the named columns. Runs with equal keys are left out together.

    Raises:
        MisuseError: a file has no such column, or all runs have the same key.
    """
    if columns is None:
        return []
    names = [name.strip() for name in columns.split(",")]
    for runs in files:
        if missing := [name for name in names if name not in runs.columns.header]:
            have = ", ".join(runs.columns.header)
            raise MisuseError(f"--leave-out: {runs.file} has no column {missing[0]!r}; it has {have}")
    groups = [[tuple(row.text(name) for name in names) for row in runs.rows] for runs in files]
    if len({key for keys in groups for key in keys}) < 2:
        raise MisuseError(
            f"--leave-out {columns}: all runs have the same values there, so that none would be left to fit to"
        )
    return groups


def _cross_validated(
    hardware: Hardware,
    options: argparse.Namespace,
    samples: Sequence[Sequence[Sample]],
    groups: list[list[tuple[str, ...]]],
) -> list[list[float]]:
    """The predicted seconds of every run by a fit to the others, whose errors people are told."""
    from ..cost.measured.accuracy import cross_validated  # noqa: PLC0415
    from ..render.fits import errors_line  # noqa: PLC0415

    told = progress("cross-validating", options)
    held_out = cross_validated(hardware, samples, groups, progress=told)
    if options.format == "json":
        return held_out
    print(f"each {printable(options.leave_out)} predicted by constants fitted to the others:", file=sys.stderr)
    for path, seconds, each in zip(options.runs, held_out, samples, strict=True):
        print("  " + errors_line(printable(path), seconds, each), file=sys.stderr)
    return held_out
