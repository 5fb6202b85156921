"""`mimo predict --csv`: every row of a file of runs, with what is predicted for it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache
from io import StringIO

import attrs

from ...base.errors import Fault, PlanError
from ..memory.peaks import peaks
from ..simulation.simulate import DeadlockError
from ..timing.hardware import DEFAULT, Hardware, load_hardware
from ..timing.step_time import step_seconds
from ..timing.timing import Rates, rates_of
from ..timing.workload import Workload, workload_of
from .csv_file import Runs, check_cells, row_faults
from .run_set import CellError, PlanOf, Row, measured

_ADDED = ("predicted_ms", "predicted_GiB")


@attrs.frozen(kw_only=True)
class RowPrediction:
    """What is predicted of a row, and what was measured of it: milliseconds, GiB; None where it does not say.

    `unread` tells of cells that say something else, such as OOM.
    """

    ms: float
    gib: float
    second_ms: float | None
    measured_ms: float | None
    measured_gib: float | None
    unread: tuple[str, ...]


@attrs.frozen(kw_only=True)
class RunPredictions:
    """Of every row of a file, in order; None for a row at fault, whose faults stand in `faults`.

    `num_assumed` rows do not name their GPU: it is the default.
    """

    runs: Runs
    rows: tuple[RowPrediction | None, ...]
    faults: tuple[Fault, ...]
    num_assumed: int


def each_row[T](runs: Runs, make: Callable[[Row], T]) -> tuple[list[T | None], list[Fault]]:
    """What `make` makes of every row, None where it cannot, and the faults of all those rows."""
    found: list[T | None] = []
    faults = []
    for index, row in enumerate(runs.rows):
        try:
            check_cells(runs, index)
            found.append(make(row))
        except (CellError, PlanError, DeadlockError) as error:
            found.append(None)
            faults += row_faults(runs, index, error)
    return found, faults


def workload_of_row(runs: Runs, row: Row, plan_of: PlanOf | None = None) -> Workload:
    """The counted work of one row. Raises CellError, PlanError."""
    plan = (plan_of or runs.kind.plan_of)(row, runs.folder)
    return workload_of(plan, runs.kind.settings_of(row))


def gpu_of(runs: Runs, work: Workload) -> str | None:
    """The GPU that a row ran on, where it is known."""
    return runs.kind.gpu or work.plan.gpu


def row_gib(work: Workload) -> float:
    """Memory that the fullest rank allocates, as a framework counts it: communicators are outside."""
    return max(peak.memory.total for peak in peaks(work.plan, work.settings)) / 2**30


def predict_runs(
    runs: Runs, hardware: Hardware | None = None, progress: Callable[[float], None] | None = None
) -> RunPredictions:
    """Predictions of every row, on the given GPU or else the row's own; `progress` is told the share done."""
    assumed = done = 0

    @cache
    def rates_by_name(gpu: str) -> Rates:
        return rates_of(load_hardware(gpu))

    def predict(row: Row) -> RowPrediction:
        nonlocal assumed, done
        if progress:
            progress(done / len(runs.rows))
        done += 1
        work = workload_of_row(runs, row)
        gpu = gpu_of(runs, work)
        assumed += hardware is None and gpu is None
        rates = rates_of(hardware) if hardware else rates_by_name(gpu or DEFAULT)
        second = runs.second
        measured_ms, no_ms = _if_measured(lambda: runs.kind.measured_ms(row, runs.folder), row)
        measured_gib, no_gib = _if_measured(lambda: measured(row, runs.kind.gibibytes), row)
        return RowPrediction(
            ms=1e3 * step_seconds(work, rates),
            gib=row_gib(work),
            second_ms=1e3 * step_seconds(workload_of_row(runs, row, second.plan_of), rates) if second else None,
            measured_ms=measured_ms,
            measured_gib=measured_gib,
            unread=no_ms + no_gib,
        )

    rows, faults = each_row(runs, predict)
    return RunPredictions(runs=runs, rows=tuple(rows), faults=tuple(faults), num_assumed=assumed)


def _if_measured(read: Callable[[], float], row: Row) -> tuple[float | None, tuple[str, ...]]:
    """What was measured; else None, and why where the cell says something."""
    try:
        return read(), ()
    except CellError as error:
        return None, (error.rule,) if row.get(error.column, "").strip() else ()


def predictions_text(found: RunPredictions) -> str:
    """The rows as CSV with `predicted_ms` and `predicted_GiB`; these are empty in rows at fault.

    Where a file measures a second method (the column `full_s`: full recomputation, no sequence parallelism), its
    prediction is the column `predicted_full_ms`.
    """
    runs = found.runs
    added = [*_ADDED, *([runs.second.predicted] if runs.second else [])]
    given = [column for column in runs.header if column not in added]
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*given, *added])
    for row, one in zip(runs.rows, found.rows, strict=True):
        numbers = [one.ms, one.gib, one.second_ms] if one else [None] * 3
        cells = ["" if number is None else f"{number:.6f}" for number in numbers[: len(added)]]
        writer.writerow([*(row[column] for column in given), *cells])
    return out.getvalue()
