"""Cells as text that spreadsheets do not compute.

A spreadsheet takes a cell that begins with = + - or @ for a formula, which may open addresses and start programs. Such
a cell, if it is no number, is written with an apostrophe before it, and read without it, so that what was written is
read as it was. Control characters become escape sequences: cells also reach terminals.
"""

from __future__ import annotations

import re

from ...base.printable import printable

_FORMULA = re.compile(r"[\s']*[=+\-@\uff1d\uff0b\uff0d\uff20]")  # the full-width signs too, which some accept
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def written(text: str) -> str:
    """The cell as it is written: no formula, and safe to print."""
    shown = printable(text)
    return f"'{shown}" if _FORMULA.match(shown) and not _NUMBER.fullmatch(shown.strip()) else shown


def read(text: str) -> str:
    """The cell as it was before `written` put an apostrophe before it."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
