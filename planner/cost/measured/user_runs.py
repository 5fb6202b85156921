"""A user's own measured runs, of any layout: each row names a spec or plan, and what was measured.

    spec,ms,GiB                       spec,metrics
    tp2.yaml,812,61.2                 tp2.yaml,tp2.jsonl
    tp4.yaml,655,44.0                 tp4.yaml,tp4.jsonl

`ms` is the time of a step, `GiB` what the fullest rank allocated. In the place of `ms` a row may name the file that
`executor train --metrics` wrote: its time is the median step, the first left out, which warms up. Files are looked
for beside the CSV file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from statistics import median

from ...base import codes
from ...base.errors import PlanError
from ...plan import Plan
from ...plan_file import load_plan
from ...spec.fields import show
from ...spec.loader import read_bytes
from ..work.settings import EXECUTOR, Settings
from .run_set import CellError, Row, RunSet, measured

_MAX_METRICS = 64 * 2**20


def _plan(row: Row, folder: str) -> Plan:
    plan = load_plan(_file(row, folder, "spec"))
    if missing := [module.name for module in plan.modules if module.model is None]:
        rule = f"every module says its sizes; no model is given for {', '.join(missing)}"
        raise CellError("spec", rule, "add `model:` with a preset or sizes to the spec", codes.MISSING_KEY)
    return plan


def _file(row: Row, folder: str, column: str) -> str:
    """The path of the file in a cell."""
    name = row[column].strip()
    if not name:
        raise CellError(column, f"every row names its {column} file, got nothing", "write its path", codes.MISSING_KEY)
    return os.path.join(folder, name)


def _settings(row: Row) -> Settings:
    """Runs with a file of metrics are the executor's; of others nothing is known but the plan."""
    return EXECUTOR if row.get("metrics", "").strip() else Settings()


def _time(row: Row, folder: str) -> float:
    """Measured milliseconds."""
    if not row.get("metrics", "").strip():
        return measured(row, "ms")
    seconds = list(_seconds(_file(row, folder, "metrics")))
    if not seconds:
        raise CellError("metrics", "the file has a step or more, got none", "train with --metrics again")
    return 1e3 * median(seconds[1:] or seconds)


def _seconds(path: str) -> Iterator[float]:
    """Seconds of each step that the executor wrote. Raises CellError where they are not those of a GPU."""
    try:
        text = read_bytes(path, _MAX_METRICS).decode("utf-8", errors="replace")
    except PlanError as error:
        fault = error.faults[0]
        raise CellError("metrics", fault.rule, fault.remedy, fault.code) from None
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            step = json.loads(line)
            seconds, device = float(step["seconds"]), str(step.get("device", ""))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            rule = f"line {number} of {path} is a step with its `seconds`, got {show(line)}"
            raise CellError("metrics", rule, "name a file that `executor train --metrics` wrote") from None
        if device == "cpu":
            rule = f"{path} was measured on a GPU, got the device cpu"
            raise CellError("metrics", rule, "leave the run out: predictions are of GPUs", codes.CONFLICT)
        if not 0 < seconds < float("inf"):
            rule = f"line {number} of {path}: seconds > 0, got {seconds}"
            raise CellError("metrics", rule, "train with --metrics again")
        yield seconds


OWN = RunSet(
    name="own runs",
    columns=("spec",),
    plan_of=_plan,
    settings_of=_settings,
    gpu="",
    measured_ms=_time,
    gibibytes="GiB",
)
