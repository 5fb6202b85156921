"""What options of the command line may be. A mistake is raised, not printed: of several ranks one is to speak."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

_MAX_INTEGER = 2**32 - 1


class MisuseError(Exception):
    """The command was given something that it does not take; the message says what it takes."""


class Parser(argparse.ArgumentParser):
    """Raises MisuseError with the usage where argparse would print it and exit."""

    def error(self, message: str) -> NoReturn:
        raise MisuseError(f"{message}\n{self.format_usage().rstrip()}")


def integer(low: int) -> Callable[[str], int]:
    """An argparse type: an integer from `low` up."""

    def parse(text: str) -> int:
        try:
            found = int(text)
        except ValueError:
            found = low - 1
        if not low <= found <= _MAX_INTEGER:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} to {_MAX_INTEGER}, got {text[:40]!r}")
        return found

    return parse


def number(high: float) -> Callable[[str], float]:
    """An argparse type: a number above 0 and at most `high`."""

    def parse(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = 0.0
        if not 0 < found <= high:  # nor NaN
            raise argparse.ArgumentTypeError(f"expected a number above 0 and at most {high:g}, got {text[:40]!r}")
        return found

    return parse


def check_writable(option: str, path: Path) -> None:
    """Raise MisuseError where no file can be written at `path`. Creates nothing."""
    if path.is_dir():
        raise MisuseError(f"{option} {path} is a directory: name a file")
    if not path.parent.is_dir():
        raise MisuseError(f"{option} {path}: there is no directory {path.parent}: make it, or name another")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise MisuseError(f"{option} {path} cannot be written: name another file")
