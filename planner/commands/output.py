"""What commands write: files that are complete or absent, warnings, and the progress of what takes long.

`outputs_of` decides every path to which a command of `mimo` or of the executor writes, before the command does any
work: a mistake costs nothing then. Nothing that the command reads is written over, under whatever name.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..base.frozen import frozen
from ..base.inputs import name_if_read
from ..base.printable import printable
from .options import MisuseError

if TYPE_CHECKING:
    from ..base.errors import Fault
    from ..plan import Plan

STDOUT = "-"
_MANY_OPERATIONS = 100_000  # about a second of simulation


@frozen
class Output:
    """Where a command writes.

    Attributes:
        option: the option that says so.
        given: the name as it was given; `-` is standard output.
        target: the file, links followed; `-` for standard output.
    """

    option: str
    given: str
    target: str

    @property
    def is_stdout(self) -> bool:
        return self.target == STDOUT

    def check_inputs(self) -> None:
        """Raise MisuseError if this command has read the file."""
        if not self.is_stdout and (read := name_if_read(self.target)):
            raise self.refusal(f"would overwrite {read}, which is read")

    def write(self, text: str) -> None:
        """Write the text, complete or not at all. What is no regular file (a pipe, a device) is written in place.

        Raises:
            MisuseError: it cannot be written, or has been read.
        """
        if self.is_stdout:
            sys.stdout.write(text)
            return
        self.check_inputs()
        try:
            if os.path.exists(self.target) and not os.path.isfile(self.target):
                with open(self.target, "w", encoding="utf-8") as stream:
                    stream.write(text)
            else:
                self._replace(text)
        except (OSError, ValueError) as error:
            raise MisuseError(f"cannot write {printable(self.given)}: {_reason(error)}") from None

    def _replace(self, text: str) -> None:
        """Write a file beside the target and put it in its place. It keeps the mode of what it replaces."""
        from tempfile import NamedTemporaryFile  # noqa: PLC0415

        try:
            mode = os.stat(self.target).st_mode & 0o7777
        except FileNotFoundError:
            mode = 0o666 & ~_umask()
        with NamedTemporaryFile("w", encoding="utf-8", dir=os.path.dirname(self.target), delete=False) as partial:
            try:
                partial.write(text)
                partial.flush()
                os.fsync(partial.fileno())
                os.chmod(partial.name, mode)
                os.replace(partial.name, self.target)
            except BaseException:  # a full disk, Ctrl-C: nothing is left behind
                os.unlink(partial.name)
                raise

    def check(self) -> None:
        """Raise MisuseError if no file can be written there."""
        if self.is_stdout:
            return
        folder = os.path.dirname(self.target)
        is_file = os.path.isfile(self.target)
        is_special = os.path.exists(self.target) and not is_file  # written in place, as no file is
        is_barred = not is_special and not os.access(folder, os.W_OK)
        for is_wrong, reason in (
            (os.path.isdir(self.target), "is a directory: name a file"),
            (not os.path.isdir(folder), f"cannot be written: there is no directory {printable(folder)}"),
            (is_file and not os.access(self.target, os.W_OK), "cannot be written: the file may not be changed"),
            (is_barred, f"cannot be written: no permission to write in {printable(folder)}"),
        ):
            if is_wrong:
                raise self.refusal(reason)
        self.check_inputs()

    def check_others(self, others: list[Output]) -> None:
        """Raise MisuseError if another output is the same."""
        for other in others:
            if _is_one(self.target, other.target):
                what = "both standard output" if self.is_stdout else "one file"
                raise self.refusal(f"and {other.option} {printable(other.given)} are {what}")

    def refusal(self, reason: str) -> MisuseError:
        """What is wrong with it, after its option and name."""
        return MisuseError(f"{self.option} {printable(self.given)} {reason}")


def outputs_of(given: Mapping[str, str | None], *inputs: str | None) -> list[Output | None]:
    """Where the options of a command write; None for each that is left out.

    Args:
        given: the name that each option was given.
        inputs: names of files that the command is about to read, or None. What it has read already is known.

    Raises:
        MisuseError: a name is that of an input, of a folder, or of another output, or cannot be written.
    """
    found: list[Output | None] = []
    for option, name in given.items():
        output = None if name is None else output_of(option, name, *inputs)
        if output:
            output.check_others([other for other in found if other])
        found.append(output)
    return found


def output_of(option: str, name: str, *inputs: str | None) -> Output:
    """Where one option writes, checked as in `outputs_of`."""
    output = _named(option, name)
    for source in inputs:
        if source and not output.is_stdout and _is_one(output.target, os.path.realpath(source)):
            raise output.refusal(f"would overwrite {printable(source)}, which is read")
    output.check()
    return output


def _named(option: str, name: str) -> Output:
    if not name:
        raise MisuseError(f"{option} needs the name of a file; - is standard output")
    try:
        return Output(option, name, STDOUT if name == STDOUT else _target(name))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise MisuseError(f"{option} {printable(name)} cannot be written: {_reason(error)}") from None


def _target(name: str) -> str:
    """A file without links on the way; a device or a pipe as it is named, since links to pipes lead nowhere."""
    is_special = os.path.exists(name) and not os.path.isfile(name)
    return os.path.abspath(name) if is_special else os.path.realpath(name)


def _is_one(one: str, other: str) -> bool:
    """Whether two names, links followed, are those of one file."""
    try:
        return one == other or os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them does not exist
        return False


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def print_faults(faults: Iterable[Fault], options: argparse.Namespace) -> None:
    """Print faults or warnings to standard error, in the form that suits it and the command line."""
    from ..render.faults import fault_json, fault_lines  # noqa: PLC0415
    from ..render.style import style_of  # noqa: PLC0415

    style = style_of(sys.stderr, getattr(options, "color", "auto"))
    for fault in faults:
        lines = [fault_json(fault)] if is_json(options) else fault_lines(fault, style)
        print(*lines, sep="\n", file=sys.stderr)


def is_json(options: argparse.Namespace) -> bool:
    """Whether a program reads what the command prints."""
    return getattr(options, "format", "text") in ("json", "jsonl")


def print_table(rows: Sequence[Mapping[str, str | float | None]], options: argparse.Namespace) -> None:
    """Print rows of the same columns: under their names, or as a list of JSON objects."""
    if is_json(options):
        import json  # noqa: PLC0415

        print(json.dumps(rows, indent=2))
        return
    from ..render.style import columns  # noqa: PLC0415

    cells = [[cell if isinstance(cell, str) else f"{cell:,g}" for cell in row.values()] for row in rows]
    right = frozenset(i for i, cell in enumerate(rows[0].values()) if not isinstance(cell, str))
    print(*columns([list(rows[0]), *cells], right, indent=0), sep="\n")


def tell(text: str, options: argparse.Namespace) -> None:
    """Print a sentence to standard error, for programs as an object."""
    import json  # noqa: PLC0415

    print(json.dumps({"message": text}) if is_json(options) else f"mimo: {text}", file=sys.stderr)


def announce(plan: Plan, options: argparse.Namespace) -> None:
    """Announce a simulation that may take a second or more, to people."""
    from ..cost.simulation.schedule import num_passes  # noqa: PLC0415

    passes = num_passes(plan)
    if passes > _MANY_OPERATIONS and not is_json(options):
        print(f"simulating {passes:,} operations ...", file=sys.stderr, flush=True)


def progress(what: str, options: argparse.Namespace) -> Callable[[float], None]:
    """Print to people what is being done; the function that is returned takes the share that is done, from 0 to 1.

    The share is shown on terminals only, where the next line that is printed replaces it.
    """
    if is_json(options):
        return lambda share: None  # noqa: ARG005
    live = sys.stderr.isatty()
    print(f"{what} ...", end="\r" if live else "\n", file=sys.stderr, flush=True)
    shown = -1

    def show(share: float) -> None:
        nonlocal shown
        if live and int(100 * share) > shown:
            shown = int(100 * share)
            print(f"{what} ... {shown:2} %", end="\r", file=sys.stderr, flush=True)

    return show
