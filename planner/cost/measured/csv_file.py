"""A CSV file of measured runs -> its columns and rows, each with its place in the file.

Columns may stand in any order. The habits of spreadsheets are accepted: a byte order mark, blank lines, blank cells
at the end of a row, blanks around cells, and quotes.
"""

from __future__ import annotations

import csv
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from io import StringIO

import attrs

from ...base import codes
from ...base.errors import Fault, Mark, PlanError
from ...base.frozen import frozen
from ..simulation.simulate import DeadlockError
from .cells import CellError, Files, Row
from .columns import SPEC, Columns, columns_of
from .text_cells import read

_CELL = re.compile(r' *(?:"(?:[^"]|"")*"[^,\n]*|[^,\n]*),?')
MAX_COLUMNS = 512  # the rows may be as many as there are
_BLANKS = re.compile(r" *")


@frozen(kw_only=True)
class Runs:
    """A file of runs.

    Attributes:
        columns: what its header names.
        rows: the runs, in the order of the file.
        file: the file's name.
        text: the file's text, in which the places of cells are found.
        root: the folder outside which no file is read that a row names; if None, that of the file of runs.
    """

    columns: Columns
    rows: tuple[Row, ...]
    file: str
    text: str = attrs.field(repr=False)
    root: str | None = None

    @property
    def files(self) -> Files:
        """Where the files that rows name are looked for."""
        return Files(os.path.dirname(self.file), self.root)

    @cached_property
    def _starts(self) -> list[int]:
        return _line_starts(self.text)

    def mark(self, line: int, column: str) -> Mark:
        """The place of a row's cell; of the row if no column has that name."""
        header = self.columns.header
        return _mark(self.text, self._starts, line, header.index(column) if column in header else 0, self.file)


def read_runs(text: str, file: str) -> Runs:
    """The runs in a CSV text.

    Raises:
        PlanError: the text is not CSV, or with every fault of its header.
    """
    text = text.lstrip("\ufeff")
    (header_line, header), *records = [*_records(text, file)] or [(1, [])]
    header = [read(cell.strip()) for cell in header]
    while header and not header[-1]:
        header.pop()
    if len(header) > MAX_COLUMNS:
        rule = f"a file of runs has at most {MAX_COLUMNS} columns, got {len(header)}"
        fault = Fault(
            codes.TOO_LARGE, ("header",), rule, "check that this is the right file", Mark(file, header_line, 1)
        )
        raise PlanError([fault])
    columns, faults = columns_of(header)
    if faults:
        starts = _line_starts(text)
        marks = (_mark(text, starts, header_line, one.index, file) for one in faults)
        raise PlanError(attrs.evolve(one.fault, mark=mark) for one, mark in zip(faults, marks, strict=True))
    num = len(header)
    rows = (
        Row(
            cells=dict(zip(header, map(read, cells), strict=False)),
            line=line,
            beyond=tuple(cell for cell in cells[num:] if cell.strip()),
        )
        for line, cells in records
    )
    return Runs(columns=columns, rows=tuple(rows), file=file, text=text)


def _records(text: str, file: str) -> Iterator[tuple[int, list[str]]]:
    """The first line and the cells of every record that is not blank."""
    reader = csv.reader(StringIO(text), strict=True, skipinitialspace=True)
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        mark = Mark(file, reader.line_num, 1)
        fault = Fault(codes.BAD_SYNTAX, ("row",), f"the text is CSV: {error}", "correct the line", mark)
        raise PlanError([fault]) from None


def _line_starts(text: str) -> list[int]:
    """The index of the first character of each line."""
    return [0, *(found.end() for found in re.finditer("\n", text))]


def _mark(text: str, starts: list[int], line: int, index: int, file: str) -> Mark:
    """The place of a cell, counted from 0, in the record that begins with a line; its end if it is shorter."""
    position = starts[line - 1]
    for _ in range(index):
        if found := _CELL.match(text, position):
            position = found.end()
    if blanks := _BLANKS.match(text, position):
        position = blanks.end()
    at = bisect_right(starts, position)
    return Mark(file, at, position - starts[at - 1] + 1)


def row_faults(runs: Runs, row: Row, error: CellError | PlanError | DeadlockError) -> list[Fault]:
    """What is wrong with a row, each fault with its place: in a file that the row names, or else at a cell."""
    if isinstance(error, PlanError):
        return [_placed(runs, row, fault) for fault in error.faults]
    if isinstance(error, CellError):
        return [Fault(error.code, (error.column,), error.rule, error.remedy, runs.mark(row.line, error.column))]
    return [Fault(codes.CONFLICT, ("row",), error.rule, error.remedy, runs.mark(row.line, SPEC))]


def _placed(runs: Runs, row: Row, fault: Fault) -> Fault:
    """The fault of a file. One that cannot be read has no places: the fault is in the cell that names it."""
    if fault.mark and fault.code != codes.UNREADABLE:
        return fault
    column = str(fault.path[0]) if fault.path else SPEC
    return attrs.evolve(fault, mark=runs.mark(row.line, column))
