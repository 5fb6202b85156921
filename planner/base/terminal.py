"""The width of the terminal, without shutil: importing that loads three libraries that compress files."""

from __future__ import annotations

import os
import sys

_NO_TERMINAL = 80


def terminal_width() -> int:
    """Columns of the terminal, counted as `shutil.get_terminal_size` does: by COLUMNS, else by standard output."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _NO_TERMINAL  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):  # standard output is closed, or no terminal
        return _NO_TERMINAL
