"""The `mimo` command: its parser, its exit codes, and how faults are shown. What each command does is in commands/.

Exit codes: 0 done, 1 faults in what was given, 2 misuse of the command, 130 stopped by hand. Results go to standard
output, faults to standard error. A command is imported when it is the one that runs, and it imports what it needs.
"""

from __future__ import annotations

import argparse
import atexit
import codecs
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from .base.printable import printable, printable_lines
from .base.terminal import terminal_width
from .base.version import package_version
from .commands.options import MisuseError, Version

if TYPE_CHECKING:
    from .base.errors import Fault, PlanError

OK, FAULTS, MISUSE, STOPPED = 0, 1, 2, 130
_FILES = {"presets": "known", "gpus": "known"}  # of commands/, for commands that have none of their own
_COMMANDS = (
    "init", "plan", "report", "predict", "calibrate", "diff", "explain", "schema", "presets", "gpus", "completion",
)  # fmt: skip
_ALLOCATIONS = 100_000  # from one collection of garbage to the next; Python's own number is 700


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: what follows `mimo`; None if this process is the command, whose arguments are then the process's.
    """
    _never_fail_on_characters()
    if arguments is None:
        _leave_garbage()
        arguments = sys.argv[1:]
    parser = _parser(arguments)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        getattr(options, "command", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    from .base.errors import PlanError  # noqa: PLC0415  imports attrs, which help and misuse do not need

    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except PlanError as error:
        _print_faults(error, options)
        return FAULTS
    except MisuseError as error:
        print(f"mimo: {printable_lines(str(error))}", file=sys.stderr)
        return MISUSE
    except BrokenPipeError:  # `mimo plan ... | head`
        _drop_output()
        return OK
    except OSError as error:
        _drop_output()
        print(f"mimo: cannot write standard output: {error.strerror}", file=sys.stderr)
        return MISUSE
    except KeyboardInterrupt:
        return STOPPED
    return code


def _leave_garbage() -> None:
    """Let Python look for garbage seldom, and not once more as the process ends.

    Nearly all that a command makes is in use until its end. The search for what is not took a tenth of the time of
    `mimo plan`.
    """
    gc.set_threshold(_ALLOCATIONS)
    atexit.register(gc.freeze)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """A line that is drawn becomes ASCII; any other character that the encoding lacks becomes a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(str.maketrans("─┬├└┤┘", "-+++++"))
    return text.encode("ascii", "replace").decode(), error.end


codecs.register_error("drawing", _replace)


def _drop_output() -> None:
    """Send what is still to be written nowhere: the interpreter flushes at its end, and would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _never_fail_on_characters() -> None:
    """Replace characters that the terminal's encoding lacks, and a closed stream by one that leads nowhere."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="drawing")


def _print_faults(error: PlanError, options: argparse.Namespace) -> None:
    from .base.codes import NOT_JSON  # noqa: PLC0415
    from .commands.output import is_json, print_faults  # noqa: PLC0415
    from .render.style import plural  # noqa: PLC0415

    print_faults(map(_placed, error.faults), options)
    if is_json(options):
        return
    if error.faults and all(fault.is_warning for fault in error.faults):
        print("--strict: these warnings count as errors, and nothing is written", file=sys.stderr)
    total = len(error.faults) + error.num_left_out
    shown = f" ({len(error.faults)} shown)" if error.num_left_out else ""
    first = error.faults[0].code if error.faults else NOT_JSON
    print(f"{plural(total, 'fault')}{shown}; `mimo explain {first}` tells more about {first}", file=sys.stderr)


def _placed(fault: Fault) -> Fault:
    """The fault with a place: what stands in no file was given on the command line."""
    import attrs  # noqa: PLC0415

    from .base.errors import Mark  # noqa: PLC0415

    return fault if fault.mark else attrs.evolve(fault, mark=Mark("<command line>", 1, 1))


class _HelpFormatter(argparse.HelpFormatter):
    """Help as wide as everything else that is printed.

    argparse makes a formatter for every option that is declared. Its own one asks shutil for the width, which takes
    longer to import than all options to declare.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=terminal_width() - 2)


class _Parser(argparse.ArgumentParser):
    """A parser that takes options in full only: `--gpu 4`, to a command without it, is not --gpus-per-node.

    argparse makes the parser of each command of the same class.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Print the usage and a message, which may quote an argument, and exit."""
        super().error(printable(message))


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for these arguments: of one command if they begin with its name, else of all, as for completion."""
    parser = _Parser(
        prog="mimo",
        description="Compile the layout of multimodal training into a proven plan, before asking for a GPU.",
    )
    parser.add_argument("--version", action=Version, line=lambda: f"mimo {package_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", prog="mimo")
    parser.set_defaults(parser=parser)  # whose commands `completion` reads
    is_one = bool(arguments) and arguments[0] in _COMMANDS and arguments[0] != "completion"
    names = arguments[:1] if is_one else _COMMANDS
    for file in dict.fromkeys(_FILES.get(name, name) for name in names):
        import_module(f".commands.{file}", __package__).add(commands)
    for command in commands.choices.values():
        command.set_defaults(command=command)  # whose usage is shown beside an argument that it does not know
    return parser


if __name__ == "__main__":
    sys.exit(main())
