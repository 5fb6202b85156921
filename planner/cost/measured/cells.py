"""One row of a file of runs, and what its cells say: a measured number, or a value of the spec."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ...base import codes
from ...base.codes import Code
from ...base.errors import Faults, Path, PlanError
from ...base.frozen import frozen
from ...spec.fields import Schema, show
from ...spec.loader import STDIN, parse_document


class CellError(ValueError):
    """What is wrong with a cell: its column, the rule that it breaks, and the remedy."""

    def __init__(self, column: str, rule: str, remedy: str, code: Code = codes.WRONG_TYPE) -> None:
        super().__init__(rule)
        self.column, self.rule, self.remedy, self.code = column, rule, remedy, code


@frozen
class Files:
    """Where the files that cells name are looked for, and how far they may lie.

    Attributes:
        folder: the folder of the file of runs, from which names are read.
        root: the folder outside which no file is read; if None, `folder`.
    """

    folder: str
    root: str | None = None

    def check(self, row: Row, column: str, path: str) -> None:
        """Raise CellError if a path leads out of the root: by its name, by `..` or by a symbolic link."""
        root = os.path.realpath(self.root if self.root is not None else self.folder or os.curdir)
        found = os.path.realpath(path)
        if os.path.commonpath((root, found)) != root:
            where = f"--root {self.root}" if self.root is not None else "the folder of the file of runs"
            rule = f"files that cells name are below {where}; {show(row.text(column) or path)} leads out of it"
            remedy = "move the file there, or allow the folder that holds it: --root DIR"
            raise CellError(column, rule, remedy, codes.CONFLICT)


@frozen(kw_only=True)
class Row:
    """One run as it was written.

    Attributes:
        cells: the text of each cell, by the name of its column.
        line: the number of its first line in the file.
        beyond: the texts of cells that no column names.
    """

    cells: Mapping[str, str]
    line: int
    beyond: tuple[str, ...] = ()

    def text(self, column: str) -> str:
        """The text of a cell without blanks around it; empty if the file has no such column."""
        return self.cells.get(column, "").strip()


def check_width(row: Row) -> None:
    """Raise CellError if the row has more cells than the header names."""
    if row.beyond:
        rule = f"the header names a column for every cell, got {len(row.beyond)} more: {', '.join(row.beyond)[:80]}"
        raise CellError("row", rule, "quote cells that contain a comma, or name the columns")


def path_in_cell(row: Row, column: str, files: Files) -> str:
    """The path of the file that a cell names. Raises CellError if the cell is empty, or if it leads out of the root."""
    name = row.text(column)
    if not name:
        raise CellError(column, f"every row names its {column} file, got nothing", "write its path", codes.MISSING_KEY)
    if "\0" in name:
        raise CellError(column, f"a path has no NUL, got {show(name)}", "write its path")
    path = os.path.join(files.folder, name)
    files.check(row, column, path)
    return os.path.join(os.curdir, path) if path == STDIN else path


def measured_number(row: Row, column: str) -> float:
    """A measured quantity, above 0. Raises CellError if the cell is empty or says something else."""
    text = row.text(column)
    if not text:
        rule = f"a measured run has {column}, got nothing"
        raise CellError(column, rule, "write what was measured, or leave the run out")
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise CellError(column, f"{column} is a number above 0, got {show(text)}", "write what was measured")
    return number


def spec_value(row: Row, column: str) -> Any:
    """The value that a cell gives to a key of the spec, as YAML reads it. Raises CellError if it is not YAML.

    Spreadsheets write 4 as 4.0 and 4096 as 4.096e3: whole numbers are integers, however they are spelt.
    """
    try:
        return _parsed(row.text(column))
    except PlanError as error:
        fault = error.faults[0]
        raise CellError(column, fault.rule, fault.remedy, fault.code) from None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    if_empty = ("a cell has a value or is empty, got a comment", "remove the comment")
    return _with_integers(parse_document(text, "cell", _AnyValue(), if_empty)[0])


def _with_integers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_with_integers(part) for part in value]
    if isinstance(value, dict):
        return {key: _with_integers(part) for key, part in value.items()}
    return value


class _AnyValue:
    """The rule of a cell on its own; those of the spec are applied once it stands in the spec."""

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:  # noqa: ARG002
        return value

    def encode(self, value: Any) -> Any:
        return value

    def schema(self, definitions: Schema) -> Schema:  # noqa: ARG002
        return {}
