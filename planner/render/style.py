"""Text for terminals: colours if they are wanted, the width that there is, and aligned columns.

This is plain ANSI codes and about thirty lines of layout, because importing a rendering library would make
`mimo plan` a third slower.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import TextIO

from ..base.frozen import frozen
from ..base.terminal import terminal_width

_MODULE_COLOURS = ("36", "33", "35", "32", "34", "31")  # language first: cyan, yellow, magenta, ...
MIN_WIDTH = 60


@frozen
class Style:
    """How text is laid out and coloured.

    Attributes:
        width: the width of a line, in columns.
        colour: whether the text may contain colour codes.
        is_terminal: whether a person reads it, in lines of that width; a program may read what is in a pipe.
    """

    width: int = 80
    colour: bool = False
    is_terminal: bool = False

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text.strip() else text

    def bold(self, text: str) -> str:
        return self._paint(text, "1")

    def dim(self, text: str) -> str:
        return self._paint(text, "2")

    def warn(self, text: str) -> str:
        return self._paint(text, "33")

    def note(self, text: str) -> str:
        return self._paint(text, "36")

    def error(self, text: str) -> str:
        return self._paint(text, "31")

    def module(self, text: str, index: int) -> str:
        """The text in the colour of the module with this index in plan order."""
        return self._paint(text, _MODULE_COLOURS[index % len(_MODULE_COLOURS)])


def style_of(stream: TextIO, colour: str = "auto") -> Style:
    """The style for a stream. `auto` means no colour codes in a pipe, with NO_COLOR set, or on a dumb terminal."""
    is_terminal = stream.isatty()
    wanted = is_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    coloured = {"auto": wanted, "always": True}.get(colour, False)
    return Style(max(MIN_WIDTH, terminal_width()), coloured, is_terminal)


def columns(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset(), indent: int = 2) -> list[str]:
    """Rows as lines of aligned cells, two spaces apart. Columns whose index is in `right` are aligned to the right."""
    widths = [max(map(len, cells)) for cells in zip_longest(*rows, fillvalue="")]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        )
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return lines


def wrap(words: Sequence[str], width: int) -> list[str]:
    """Words filled into lines of at most `width` columns, never broken."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def sentences(texts: Sequence[str], width: int, mark: str = "") -> list[str]:
    """Each text on lines of its own, indented by two columns, after a mark. Its further lines are indented more."""
    lines = []
    for text in texts:
        first, *rest = wrap(text.split(), width - 2 - max(2, len(mark)))
        lines += [f"  {mark}{first}", *(f"    {line}" for line in rest)]
    return lines


def listed(phrases: Sequence[str], mark: str = ",", first: int = 0) -> list[str]:
    """Phrases that are ready to be wrapped: a mark after each but the last, beginning with the one at index `first`."""
    return [f"{p}{mark}" if first <= i < len(phrases) - 1 else p for i, p in enumerate(phrases)]


def shorten(text: str, width: int) -> str:
    """The line, cut off at `width` columns with dots at its end."""
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."


def plural(count: int, noun: str) -> str:
    """`1 rank`, `8 ranks`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}" + ("es" if noun.endswith("ch") else "s")


def stdout_style(colour: str) -> Style:
    """The style for standard output."""
    return style_of(sys.stdout, colour)
