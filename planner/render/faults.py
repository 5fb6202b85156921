"""Faults as people, pipes and programs read them.

On a terminal a fault is wrapped to its width, and shows the line that it is about, with the place marked below. In a
pipe it is one line, whatever its length, so that `grep` and editors find all of it. As JSON it is an object on a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from unicodedata import combining, east_asian_width

from ..base.errors import Fault, Mark, format_path
from ..base.printable import printable
from .style import Style, wrap

_INDENT = "    "
_BEFORE = 20  # columns of a long line that are shown before the place that is marked
_VALUE = re.compile(r"'([^']*)'|(?<![\w.])(-?\d(?:[\d,]*\d)?(?:\.\d+)?)(?!\w)")


def fault_lines(fault: Fault, style: Style) -> list[str]:
    """The fault as text. On a terminal: what is wrong, the line it is about, and what to change."""
    paint = {"error": style.error, "warning": style.warn}.get(fault.severity, style.note)
    if not style.is_terminal:
        return [f"{paint(_head(fault))}; fix: {fault.remedy}"]
    head = [paint(line) for line in _wrapped(_head(fault), style.width)]
    shown = _excerpt(fault.mark, style, paint) if fault.mark and fault.mark.text.strip() else []
    return [*head, *shown, *_wrapped(f"fix: {fault.remedy}", style.width, _INDENT)]


def fault_json(fault: Fault) -> str:
    """The fault as one line of JSON."""
    return json.dumps(fault_fields(fault))  # ASCII, so that no line can be two


def fault_fields(fault: Fault) -> dict[str, Any]:
    """The fault as JSON has it. `values` are the numbers and quoted words of the rule, in its order."""
    mark = fault.mark
    return {
        "code": fault.code.name,
        "severity": fault.severity,
        "file": printable(mark.file) if mark else None,
        "line": mark.line if mark else None,
        "column": mark.column if mark else None,
        "end": (mark.end or None) if mark else None,
        "path": format_path(fault.path),
        "rule": fault.rule,
        "values": [_number(number) if number else word for word, number in _VALUE.findall(fault.rule)],
        "remedy": fault.remedy,
    }


def _number(text: str) -> int | float:
    digits = text.replace(",", "")
    return float(digits) if "." in digits else int(digits)


def _head(fault: Fault) -> str:
    where = f"{fault.mark}: " if fault.mark else ""
    return f"{where}{fault.severity}[{fault.code}] {format_path(fault.path)}: {fault.rule}"


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Text in lines of at most `width` columns, the later ones indented. A word that is longer is broken."""
    later = f"{indent}  " if indent else _INDENT
    room = width - len(later)
    words = [word[at : at + room] for word in text.split() for at in range(0, len(word), room)]
    first, *_ = wrap(words, width - len(indent))
    rest = " ".join(words)[len(first) :].split()
    return [indent + first, *(later + line for line in wrap(rest, room) if line)]


def _excerpt(mark: Mark, style: Style, paint: Callable[[str], str]) -> list[str]:
    """The line of a mark, as much of it as fits, and what is meant underlined."""
    gutter = f"{mark.line:>3} | "
    before, meant, after = (printable(part) for part in _parts(mark))
    room = style.width - len(gutter)
    if _columns(before + meant + after) > room:
        before = before if _columns(before) <= _BEFORE else "..." + before[-(_BEFORE - 3) :]
        meant = _cut(meant, room - _columns(before))
        after = _cut(after, room - _columns(before + meant))
    underline = " " * _columns(before) + "^" * max(1, _columns(meant))
    return [style.dim(gutter) + before + meant + after, style.dim(f"{'':>3} | ") + paint(underline)]


def _parts(mark: Mark) -> tuple[str, str, str]:
    """What stands before, in and after the place that is meant."""
    start, end = mark.column - 1, max(mark.column, mark.end - 1)
    return mark.text[:start], mark.text[start:end], mark.text[end:].rstrip()


def _cut(text: str, room: int) -> str:
    """The text if it fits into so many columns, else its beginning and dots."""
    if _columns(text) <= room:
        return text
    while text and _columns(text) > room - 3:
        text = text[:-1]
    return text + "..." if room >= 3 else ""


def _columns(text: str) -> int:
    """The columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
