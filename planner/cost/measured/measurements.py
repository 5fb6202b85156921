"""What was measured of a row: the time of a step and the memory of the fullest rank.

A row says its time in `ms`, or names in `metrics` a file that `executor train --metrics` wrote. The time is then the
median step, without the first, which warms up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from statistics import median

from ...base import codes
from ...base.errors import PlanError
from ...spec.loader import read_bytes
from .cells import CellError, Files, Row, measured_number, path_in_cell
from .columns import GIB, METRICS, MS

_MAX_METRICS = 64 * 2**20


def measured_ms(row: Row, files: Files) -> float:
    """The measured milliseconds of a step. Raises CellError if the row does not say them."""
    if not row.text(METRICS):
        return measured_number(row, MS)
    seconds = list(_step_seconds(path_in_cell(row, METRICS, files)))
    if not seconds:
        raise CellError(METRICS, "the file has a step or more, got none", "train with --metrics again")
    return 1e3 * median(seconds[1:] or seconds)


def measured_gib(row: Row) -> float:
    """The measured GiB of the fullest rank. Raises CellError if the row does not say them."""
    return measured_number(row, GIB)


def _step_seconds(path: str) -> Iterator[float]:
    """The seconds of each step in a file of the executor. Raises CellError if they were not measured on a GPU."""
    try:
        text = read_bytes(path, _MAX_METRICS).decode("utf-8", errors="replace")
    except PlanError as error:
        fault = error.faults[0]
        raise CellError(METRICS, fault.rule, fault.remedy, fault.code) from None
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            step = json.loads(line)
            seconds, device = float(step["seconds"]), str(step.get("device", ""))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            rule = f"line {number} of {path} is a JSON object with the `seconds` of a step"
            raise CellError(METRICS, rule, "name a file that `executor train --metrics` wrote") from None
        if device == "cpu":
            rule = f"{path} was measured on a GPU, got the device cpu"
            raise CellError(METRICS, rule, "leave the run out: predictions are of GPUs", codes.CONFLICT)
        if not 0 < seconds < float("inf"):
            rule = f"line {number} of {path}: seconds > 0, got {seconds}"
            raise CellError(METRICS, rule, "train with --metrics again")
        yield seconds
