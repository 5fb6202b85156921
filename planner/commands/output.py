"""What commands write: files that are complete or absent, warnings, and the progress of what takes long."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .options import MisuseError

if TYPE_CHECKING:
    from ..base.errors import Fault
    from ..plan import Plan

_MANY_OPERATIONS = 100_000  # about a second of simulation


def write(path: str, text: str, *sources: str) -> None:
    """Write a file, complete or not at all. What is no regular file (a pipe, a device) is written in place.

    Args:
        sources: the files that were read, which are never overwritten.

    Raises:
        MisuseError: the file cannot be written, or is one of the sources.
    """
    from tempfile import NamedTemporaryFile  # noqa: PLC0415

    target = target_of(path, *sources)
    try:
        if os.path.exists(target) and not os.path.isfile(target):
            with open(target, "w", encoding="utf-8") as stream:
                stream.write(text)
            return
        with NamedTemporaryFile("w", encoding="utf-8", dir=os.path.dirname(target), delete=False) as partial:
            try:
                partial.write(text)
                partial.flush()
                os.chmod(partial.name, 0o666 & ~_umask())
                os.replace(partial.name, target)
            except BaseException:  # a full disk, Ctrl-C: nothing is left behind
                os.unlink(partial.name)
                raise
    except (OSError, ValueError) as error:
        raise _cannot_write(path, error) from None


def target_of(path: str, *sources: str) -> str:
    """The file to write, links followed. Raises MisuseError if there is no name, or if it is one of the sources."""
    if not path:
        raise MisuseError("--out needs the name of a file")
    target = os.path.realpath(path)
    for source in sources:
        if target == os.path.realpath(source):
            raise MisuseError(f"--out {path} would overwrite {source}, which is read")
    return target


def _cannot_write(path: str, error: Exception) -> MisuseError:
    return MisuseError(f"cannot write {path!r}: {getattr(error, 'strerror', None) or error}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def print_warnings(warnings: Iterable[Fault]) -> None:
    """Print warnings to standard error."""
    for warning in warnings:
        print(warning, file=sys.stderr)


def announce(plan: Plan) -> None:
    """Announce a simulation that may take a second or more."""
    from ..cost.simulation.schedule import num_passes  # noqa: PLC0415

    passes = num_passes(plan)
    if passes > _MANY_OPERATIONS:
        print(f"simulating {passes:,} operations ...", file=sys.stderr, flush=True)


def progress(what: str) -> Callable[[float], None]:
    """Print what is being done; the function that is returned takes the share that is done, from 0 to 1.

    The share is shown on terminals only, where the next line that is printed replaces it.
    """
    live = sys.stderr.isatty()
    print(f"{what} ...", end="\r" if live else "\n", file=sys.stderr, flush=True)
    shown = -1

    def show(share: float) -> None:
        nonlocal shown
        if live and int(100 * share) > shown:
            shown = int(100 * share)
            print(f"{what} ... {shown:2} %", end="\r", file=sys.stderr, flush=True)

    return show
