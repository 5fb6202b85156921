"""Options of the executor's commands. A mistake is raised, not printed, since one of several ranks is to speak."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn

from planner.commands.options import MisuseError


class Parser(argparse.ArgumentParser):
    """Raises MisuseError with the usage, instead of printing it and ending the process."""

    def error(self, message: str) -> NoReturn:
        raise MisuseError(f"{message}\n{self.format_usage().rstrip()}")


def check_writable(option: str, path: Path) -> None:
    """Raise MisuseError if no file can be written at `path`. Creates nothing."""
    if path.is_dir():
        raise MisuseError(f"{option} {path} is a directory: name a file")
    if not path.parent.is_dir():
        raise MisuseError(f"{option} {path}: there is no directory {path.parent}: make it, or name another")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise MisuseError(f"{option} {path} cannot be written: name another file")
