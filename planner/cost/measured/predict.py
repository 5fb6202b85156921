"""`mimo predict --csv`: every row of a file of runs, with what is predicted for it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import cache
from io import StringIO

from ...base.errors import Fault, PlanError
from ...base.frozen import frozen
from ..memory.peaks import peaks
from ..simulation.simulate import DeadlockError
from ..timing.hardware import DEFAULT, Hardware, load_hardware
from ..timing.step_time import step_seconds
from ..timing.timing import Rates, rates_of
from ..timing.workload import Workload
from ..work.ops import GIB
from .cells import CellError, Row
from .csv_file import Runs, row_faults
from .measurements import measured_gib, measured_ms
from .row_work import WorkOfRows
from .text_cells import written

_ADDED = ("predicted_ms", "predicted_GiB")


@frozen(kw_only=True)
class RowPrediction:
    """What is predicted for a row, and what was measured of it.

    Attributes:
        ms: predicted milliseconds of a step.
        gib: predicted GiB of the fullest rank.
        measured_ms, measured_gib: the same as measured; None if the row does not say it.
        unread: what is wrong with cells that say something else in the place of a measurement, such as OOM.
    """

    ms: float
    gib: float
    measured_ms: float | None
    measured_gib: float | None
    unread: tuple[str, ...]


@frozen(kw_only=True)
class RunPredictions:
    """The predictions for a file of runs.

    Attributes:
        runs: the file.
        rows: one prediction per row; None for a row at fault.
        faults: what is wrong with those rows.
        num_assumed: number of rows whose spec does not name a GPU, so that the default is assumed.
    """

    runs: Runs
    rows: tuple[RowPrediction | None, ...]
    faults: tuple[Fault, ...]
    num_assumed: int


def each_row[T](runs: Runs, make: Callable[[Row], T]) -> tuple[list[T | None], list[Fault]]:
    """What `make` makes of every row, None for a row at fault; and the faults, each once."""
    found: list[T | None] = []
    faults: dict[Fault, None] = {}
    for row in runs.rows:
        try:
            found.append(make(row))
        except (CellError, PlanError, DeadlockError) as error:
            found.append(None)
            faults |= dict.fromkeys(row_faults(runs, row, error))
    return found, list(faults)


def row_gib(work: Workload) -> float:
    """GiB that the fullest rank allocates, as a framework counts them: without its communicators."""
    return max(peak.memory.total for peak in peaks(work.plan, work.settings, work.facts)) / GIB


def predict_runs(
    runs: Runs, hardware: Hardware | None = None, progress: Callable[[float], None] | None = None
) -> RunPredictions:
    """Predictions for every row of a file.

    Args:
        runs: the file.
        hardware: the GPU; if None, the one that each row's spec names.
        progress: is told the share that is done.
    """
    files = runs.files
    num_assumed = num_done = 0

    @cache
    def rates_by_name(gpu: str) -> Rates:
        return rates_of(load_hardware(gpu))

    def made(work: Workload) -> tuple[float, float, bool]:
        gpu = work.plan.gpu
        rates = rates_of(hardware) if hardware else rates_by_name(gpu or DEFAULT)
        return 1e3 * step_seconds(work, rates), row_gib(work), hardware is None and gpu is None

    predictions = WorkOfRows(runs, made)

    def predict(row: Row) -> RowPrediction:
        nonlocal num_assumed, num_done
        if progress:
            progress(num_done / len(runs.rows))
        num_done += 1
        ms, gib, is_assumed = predictions.of(row)
        num_assumed += is_assumed
        measured_time, not_a_time = _if_measured(lambda: measured_ms(row, files), row)
        measured_memory, not_memory = _if_measured(lambda: measured_gib(row), row)
        return RowPrediction(
            ms=ms,
            gib=gib,
            measured_ms=measured_time,
            measured_gib=measured_memory,
            unread=not_a_time + not_memory,
        )

    rows, faults = each_row(runs, predict)
    return RunPredictions(runs=runs, rows=tuple(rows), faults=tuple(faults), num_assumed=num_assumed)


def _if_measured(read: Callable[[], float], row: Row) -> tuple[float | None, tuple[str, ...]]:
    """What was measured; else None, and why if the cell says something."""
    try:
        return read(), ()
    except CellError as error:
        return None, (error.rule,) if row.text(error.column) else ()


def predictions_text(found: RunPredictions) -> str:
    """The rows as CSV with the columns `predicted_ms` and `predicted_GiB`, which are empty in rows at fault.

    No cell is a formula to a spreadsheet (text_cells.py).
    """
    given = [column for column in found.runs.columns.header if column not in _ADDED]
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*map(written, given), *_ADDED])
    for row, one in zip(found.runs.rows, found.rows, strict=True):
        predicted = [f"{one.ms:.6f}", f"{one.gib:.6f}"] if one else ["", ""]
        writer.writerow([*(written(row.cells.get(column, "")) for column in given), *predicted])
    return out.getvalue()
