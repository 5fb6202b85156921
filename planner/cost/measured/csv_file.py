"""A CSV file of measured runs -> its set, by the header, and its rows.

Columns may stand in any order and others may stand beside them. Of a spreadsheet's habits a byte order mark, blank
lines, blank cells at the end of a row, and quotes are taken.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from io import StringIO

import attrs

from ...base import codes
from ...base.errors import Fault, Mark, PlanError
from ..simulation.simulate import DeadlockError
from .published import PUBLISHED
from .run_set import CellError, Row, RunSet, SecondMethod
from .user_runs import OWN

SETS = (*PUBLISHED, OWN)


@attrs.frozen(kw_only=True)
class Runs:
    """A file of runs.

    Attributes:
        kind: its set.
        header: names of the columns.
        rows: cells by column, as written.
        lines: the number of the line of each row.
        beyond: of each row, the cells that no column names.
        file: its name.
    """

    kind: RunSet
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    lines: tuple[int, ...]
    beyond: tuple[tuple[str, ...], ...]
    file: str

    @property
    def folder(self) -> str:
        """Where the files are that rows name."""
        return os.path.dirname(self.file)

    @property
    def second(self) -> SecondMethod | None:
        """The second method of its set, where the file measures it."""
        second = self.kind.second
        return second if second and second.measured in self.header else None


def read_runs(text: str, file: str) -> Runs:
    """The runs in a CSV text.

    Raises:
        PlanError: the text is no CSV, or its header is not that of a known set.
    """
    table = _table(text.lstrip("\ufeff"), file)
    header = tuple(cell.strip() for cell in table[0][1]) if table else ()
    while header and not header[-1]:
        header = header[:-1]
    kind = _kind(header, file)
    if twice := [name for name, number in Counter(header).items() if number > 1]:
        rule = f"the header names each column once, got {twice[0]!r} more than once"
        raise PlanError([Fault(codes.DUPLICATE_KEY, ("header",), rule, "rename one of them", Mark(file, 1, 1))])
    num = len(header)
    return Runs(
        kind=kind,
        header=header,
        rows=tuple(dict(zip(header, [*cells, *[""] * num][:num], strict=True)) for _, cells in table[1:]),
        lines=tuple(line for line, _ in table[1:]),
        beyond=tuple(tuple(cell for cell in cells[num:] if cell.strip()) for _, cells in table[1:]),
        file=file,
    )


def check_cells(runs: Runs, index: int) -> None:
    """Raise CellError where a row has more cells than the header names."""
    if beyond := runs.beyond[index]:
        rule = f"the header names a column for every cell, got {len(beyond)} more: {', '.join(beyond)[:80]}"
        raise CellError("row", rule, "quote cells that hold a comma, or name the columns")


def _table(text: str, file: str) -> list[tuple[int, list[str]]]:
    """(line, cells) of every line that has any."""
    reader = csv.reader(StringIO(text), strict=True, skipinitialspace=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        mark = Mark(file, reader.line_num, 1)
        fault = Fault(codes.BAD_SYNTAX, ("row",), f"the text is CSV: {error}", "correct the line", mark)
        raise PlanError([fault]) from None


def _kind(header: tuple[str, ...], file: str) -> RunSet:
    """The set that a header tells; else a fault that names the columns which the most similar set has beside it."""
    kind = next((one for one in SETS if set(one.columns) <= set(header)), None)
    if kind is not None:
        return kind
    shown = ", ".join(header)[:200] or "nothing"
    if len(header) == 1 and (found := [name for mark, name in ((";", "semicolons"), ("\t", "tabs")) if mark in shown]):
        rule, remedy = f"cells are separated by commas, got {found[0]}", "save the file with commas"
    else:
        closest = max(SETS, key=lambda one: len(set(one.columns) & set(header)) / len(one.columns))
        if set(closest.columns) & set(header):
            missing = [column for column in closest.columns if column not in header]
            rule = f"the header has all columns of a known set; nearest is {closest.name}, without {', '.join(missing)}"
            remedy = "add these columns"
        else:
            rule = f"the header has the columns of a known set of runs, got {shown}"
            remedy = (
                "begin with the line `spec,ms`, then for each run the file of its spec and its milliseconds; or write "
                "the columns of a published set, as in tests/data/runs"
            )
    raise PlanError([Fault(codes.MISSING_KEY, ("header",), rule, remedy, Mark(file, 1, 1))])


def row_faults(runs: Runs, index: int, error: CellError | PlanError | DeadlockError) -> list[Fault]:
    """What is wrong with a row, with its line; but faults in a spec's file have their place there."""
    mark = Mark(runs.file, runs.lines[index], 1)
    if isinstance(error, PlanError):
        return [
            fault if fault.mark and fault.code != codes.UNREADABLE else attrs.evolve(fault, mark=mark)
            for fault in error.faults
        ]
    if isinstance(error, CellError):
        return [Fault(error.code, (error.column,), error.rule, error.remedy, mark)]
    return [Fault(codes.CONFLICT, ("row",), error.rule, error.remedy, mark)]
