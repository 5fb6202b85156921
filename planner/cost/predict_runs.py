"""`mimo predict --csv`: every row of a file of runs, with what is predicted for it."""

from __future__ import annotations

import csv
from io import StringIO

from ..compile import compile_spec
from ..errors import PlanError
from .hardware import Hardware, load_hardware
from .pipeline import step_seconds
from .ranks import peaks
from .runs import Row, Runs, RunSet, row_fault, settings_of, spec_of
from .timing import Rates, rates_of
from .workload import Workload, workload_of


def workload_of_row(kind: RunSet, row: Row, *, recompute: str | None = None) -> Workload:
    """The counted work of one row. Raises ValueError, PlanError."""
    return workload_of(compile_spec(spec_of(kind, row, recompute=recompute)), settings_of(kind, row))


def workloads_of(runs: Runs) -> list[Workload]:
    """The counted work of every row. Raises PlanError with the line of the first row at fault."""
    found = []
    for index, row in enumerate(runs.rows):
        try:
            found.append(workload_of_row(runs.kind, row))
        except (ValueError, PlanError) as error:
            raise row_fault(runs, index, error) from None
    return found


def row_gib(work: Workload) -> float:
    """Memory that the fullest rank allocates, as a framework counts it: communicators are outside."""
    return max(peak.memory.total for peak in peaks(work.plan, work.settings)) / 2**30


def predictions_text(runs: Runs, hardware: Hardware | None = None) -> str:
    """The rows as CSV with `predicted_ms` and `predicted_GiB`.

    Where a set measures a second method (the column `full_s`: full recomputation, no sequence parallelism), its
    prediction is the column `predicted_full_ms`.
    """
    rates = rates_of(hardware or load_hardware(runs.kind.gpu))
    has_full = "full_s" in runs.header
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*runs.header, "predicted_ms", "predicted_GiB", *(["predicted_full_ms"] if has_full else [])])
    for row, work in zip(runs.rows, workloads_of(runs), strict=True):
        cells = [f"{1e3 * step_seconds(work, rates):.3f}", f"{row_gib(work):.3f}"]
        if has_full:
            cells.append(f"{_full_ms(runs.kind, row, rates):.3f}")
        writer.writerow([*(row[column] for column in runs.header), *cells])
    return out.getvalue()


def _full_ms(kind: RunSet, row: Row, rates: Rates) -> float:
    return 1e3 * step_seconds(workload_of_row(kind, row, recompute="full"), rates)
