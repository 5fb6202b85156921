"""What may reach a terminal, decided once: every other character of what a user wrote is shown as its escape sequence.

Names, paths, cells and the messages of other readers may hold `\\x1b[2J`, a line end that begins a false message, or an
override of writing direction. What stays are letters, marks, digits, punctuation, symbols and the blank: neither
control characters (C0, C1, DEL) nor line and paragraph separators, formats (bidi controls, zero-width characters),
surrogates and unassigned characters.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, made safe for any terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """The same for a message of several lines, whose line ends are our own."""
    return "\n".join(map(printable, text.split("\n")))
