"""Which files this process has read, so that no command writes over one of them.

A file is known by its device and number, not by its name: it has many names (links, `..`, another case), and most names
that a command reads are written inside other files, such as the hardware file that a spec names in a cell of a CSV.
"""

from __future__ import annotations

import os
import stat

_read: dict[tuple[int, int], str] = {}  # device and number -> the name by which it was read first


def note_read(descriptor: int, name: str) -> None:
    """Remember that an open file is read. Files that are no regular ones are not remembered."""
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        _read.setdefault((found.st_dev, found.st_ino), name)


def name_if_read(path: str) -> str | None:
    """The name by which this process has read the file at `path`, links followed; None if it has not."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return _read.get((found.st_dev, found.st_ino))
