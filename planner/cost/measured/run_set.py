"""What a set of measured runs is: which columns it has, and what a row of it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...base import codes
from ...base.codes import Code
from ...base.frozen import frozen
from ...plan import Plan
from ...spec.fields import MAX_SIZE, show
from ..work.settings import Settings

Row = Mapping[str, str]
PlanOf = Callable[[Row, str], Plan]


class CellError(ValueError):
    """What is wrong with a cell: its column, the rule, the remedy."""

    def __init__(self, column: str, rule: str, remedy: str, code: Code = codes.WRONG_TYPE) -> None:
        super().__init__(rule)
        self.column, self.rule, self.remedy, self.code = column, rule, remedy, code


@frozen(kw_only=True)
class SecondMethod:
    """How the same rows ran another way.

    Attributes:
        measured: the column of its measured time.
        predicted: the column of its predicted milliseconds.
        plan_of: of a row and the folder of its file. Raises CellError, PlanError.
    """

    measured: str
    predicted: str
    plan_of: PlanOf


@frozen(kw_only=True)
class RunSet:
    """How rows of one kind are read.

    Attributes:
        name: of the set.
        columns: its header has all of these.
        plan_of: of a row and the folder of its file. Raises CellError, PlanError.
        settings_of: of the software that ran, and of the row. Raises CellError.
        gpu: hardware file; empty where each row's plan names it.
        measured_ms: measured milliseconds of a row. Raises CellError.
        gibibytes: the column of measured memory, or nothing.
        second: a second method measured on the same rows.
    """

    name: str
    columns: tuple[str, ...]
    plan_of: PlanOf
    settings_of: Callable[[Row], Settings]
    gpu: str
    measured_ms: Callable[[Row, str], float]
    gibibytes: str = ""
    second: SecondMethod | None = None


def integer(row: Row, column: str) -> int:
    """A cell that counts something: 32, also written 32.0 or 3.2e1."""
    text = row[column].strip()
    try:
        number = float(text)
    except ValueError:
        number = 0.5
    if number != number // 1:
        rule = f"{column} is a whole number, got {show(text) if text else 'nothing'}"
        raise CellError(column, rule, f"write a whole number from 1 to {MAX_SIZE}")
    if not 1 <= number <= MAX_SIZE:
        rule = f"1 <= {column} <= {MAX_SIZE}, got {text}"
        raise CellError(column, rule, f"write a whole number from 1 to {MAX_SIZE}", codes.OUT_OF_RANGE)
    return int(number)


def measured(row: Row, column: str) -> float:
    """A cell that was measured."""
    text = row.get(column, "").strip()
    if not text:
        raise CellError(
            column, f"a measured run has {column}, got nothing", "write what was measured, or leave the run out"
        )
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise CellError(column, f"{column} is a number above 0, got {show(text)}", "write what was measured")
    return number
