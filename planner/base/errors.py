"""Faults, the collector that gathers them, and the error that carries all of them at once.

A fault names its place (file:line:column and the path of the key), states the rule with the values in it, and says what
to change. Passes add faults to a `Faults` collector and go on; whoever owns the stage raises once, with everything that
was found, in source order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import attrs

from .codes import Code
from .frozen import frozen
from .printable import printable
from .suggestions import Suggestions

Path = tuple[str | int, ...]

# A nonsensical spec can have a fault on every line; nobody reads more than these.
MAX_FAULTS = 200


_MAX_KEY = 64
_LINE_BREAKS = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # those of YAML


def format_key(key: str | int) -> str:
    """A key of a document, shortened and safe to print."""
    text = str(key)
    shown = printable(text[:_MAX_KEY])
    return shown if len(text) <= _MAX_KEY and len(shown) <= _MAX_KEY else f"{shown[:_MAX_KEY]}..."


def format_path(path: Path) -> str:
    """`modules.images.stages[2]`, or `spec` for the whole document."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{format_key(part)}"
    return text or "spec"


@frozen
class Mark:
    """A place in a file; line and columns count from 1.

    Attributes:
        end: the column after the last character that is meant, on the same line; 0 if only the start is known.
        text: the whole line; empty if it is not at hand.
    """

    file: str
    line: int
    column: int
    end: int = 0
    text: str = ""

    def __str__(self) -> str:
        return f"{printable(self.file)}:{self.line}:{self.column}"


@frozen
class Source:
    """The place of every key of a document.

    Attributes:
        file: the name of the file.
        entries: (path, line, column, end) of every key, as in a mark; a word or number on its line belongs to it.
        text: the document, from which messages show lines; empty to show none.
    """

    file: str
    entries: tuple[tuple[Path, int, int, int], ...]
    text: str = ""

    @cached_property
    def _by_path(self) -> dict[Path, tuple[int, int, int]]:
        return {path: (line, column, end) for path, line, column, end in self.entries}

    @cached_property
    def _lines(self) -> list[str]:
        return _LINE_BREAKS.split(self.text)

    def mark(self, path: Path) -> Mark:
        """The place of `path`, or of the nearest enclosing key that was written."""
        for end in range(len(path), -1, -1):
            if found := self._by_path.get(path[:end]):
                return self.mark_at(*found)
        return self.mark_at(1, 1)

    def mark_at(self, line: int, column: int, end: int = 0) -> Mark:
        """The mark of a place in the document."""
        return Mark(self.file, line, column, end, self._lines[line - 1] if line <= len(self._lines) else "")


@frozen
class Fault:
    """One thing that is wrong (or, for a W code, doubtful) with what a user wrote.

    Attributes:
        code: the stable code; `mimo explain CODE` tells more.
        path: the key concerned, from the root of the document.
        rule: the rule that is broken, as a statement with the values in it.
        remedy: what to change.
        mark: the place in the file; None when the spec was built in Python.
    """

    code: Code
    path: Path
    rule: str = attrs.field(converter=printable)
    remedy: str = attrs.field(converter=printable)
    mark: Mark | None = None

    @property
    def is_warning(self) -> bool:
        """Whether this is a warning, which never stops a plan."""
        return self.code.is_warning

    @property
    def severity(self) -> str:
        """`error`, `warning` or `note`."""
        return self.code.severity

    def __str__(self) -> str:
        where = f"{self.mark}: " if self.mark else ""
        return f"{where}{self.severity}[{self.code}] {format_path(self.path)}: {self.rule}\n    fix: {self.remedy}"


class PlanError(ValueError):
    """Raised once per stage, with every fault of the stage in source order (`faults`).

    Attributes:
        data: the plain data of the document in which they were found, if it is well formed.
        source: the places of its keys.
    """

    data: Any = None
    source: Source | None = None

    def __init__(self, faults: Iterable[Fault], num_left_out: int = 0) -> None:
        self.faults = tuple(faults)
        self.num_left_out = num_left_out
        super().__init__(self.faults, num_left_out)

    def of(self, document: str) -> PlanError:
        """The same error, with its faults of a whole document said to be of `document`, such as `hardware`."""
        faults = (attrs.evolve(fault, path=fault.path or (document,)) for fault in self.faults)
        return PlanError(faults, self.num_left_out)

    def __str__(self) -> str:
        lines = [str(fault) for fault in self.faults]
        if self.num_left_out:
            lines.append(f"... and {self.num_left_out} more")
        return "\n".join(lines)


def limited(faults: Sequence[Fault]) -> PlanError:
    """The error with these faults, of which the first MAX_FAULTS are kept and the others counted."""
    return PlanError(faults[:MAX_FAULTS], max(0, len(faults) - MAX_FAULTS))


class Faults:
    """Collects faults: the only mutable object that passes share.

    Attributes:
        suggestions: what finds the known words that are close to misspelt ones, for all faults of one input.
    """

    def __init__(self, source: Source | None = None, suggestions: Suggestions | None = None) -> None:
        self.suggestions = suggestions or Suggestions()
        self._source = source
        self._errors: dict[Fault, None] = {}
        self._warnings: dict[Fault, None] = {}
        self._num_left_out = 0

    def add(self, code: Code, path: Path, rule: str, remedy: str) -> None:
        """Record a fault, once. Warnings and notes are kept and never raised."""
        found = self._errors if code.is_error else self._warnings
        mark = self._source.mark(path) if self._source else None
        fault = Fault(code, path, rule, remedy, mark)
        if fault in found:
            return
        if len(found) < MAX_FAULTS:
            found[fault] = None
        elif code.is_error:
            self._num_left_out += 1

    def extend(self, error: PlanError, prefix: Path = ()) -> None:
        """Take over the faults of an inner stage, whose document stands under the path `prefix` of this one."""
        for fault in error.faults:
            self.add(fault.code, prefix + fault.path, fault.rule, fault.remedy)
        self._num_left_out += error.num_left_out

    def merge(self, other: Faults) -> None:
        """Take over all that a pass with its own collector found."""
        for fault in (*other._errors, *other._warnings):
            self.add(fault.code, fault.path, fault.rule, fault.remedy)
        self._num_left_out += other._num_left_out

    def has(self, code: Code) -> bool:
        """Whether a fault of that code was added."""
        return any(fault.code == code for fault in (*self._errors, *self._warnings))

    @property
    def has_errors(self) -> bool:
        """Whether any error was found so far."""
        return bool(self._errors)

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """The warnings and notes found so far, in source order."""
        return in_source_order(self._warnings)

    @property
    def error(self) -> PlanError:
        """Every error found so far, in source order."""
        return PlanError(in_source_order(self._errors), self._num_left_out)

    def raise_errors(self) -> None:
        """Raise `error` if there is any."""
        if self._errors:
            raise self.error


def in_source_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """The faults in the order of their places; those of one place stay as they are."""
    return tuple(sorted(faults, key=_place))


def _place(fault: Fault) -> tuple[int, int]:
    """The sorting key. Without marks all keys are equal, and a stable sort keeps the order of discovery."""
    return (fault.mark.line, fault.mark.column) if fault.mark else (0, 0)
