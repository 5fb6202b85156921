"""The `mimo` command: its parser, its exit codes, and how faults are shown. What each command does is in commands/.

Exit codes: 0 planned, 1 faults in what was given, 2 misuse of the command. Results go to standard output,
faults to standard error. Everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import codecs
import os
import sys
from collections.abc import Sequence
from typing import Any

from .base.codes import NOT_JSON
from .base.errors import PlanError
from .commands.calibrate import add_calibrate
from .commands.diff import add_diff
from .commands.explain import add_explain
from .commands.options import MisuseError
from .commands.plan import add_plan
from .commands.predict import add_predict
from .commands.report import add_report
from .commands.schema import add_schema

OK, FAULTS, MISUSE = 0, 1, 2
_COMMANDS = (add_plan, add_report, add_predict, add_calibrate, add_diff, add_explain, add_schema)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _never_fail_on_characters()
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except PlanError as error:
        _print_faults(error)
        return FAULTS
    except MisuseError as error:
        print(f"mimo: {error}", file=sys.stderr)
        return MISUSE
    except BrokenPipeError:  # `mimo plan ... | head`
        _drop_output()
        return OK
    except OSError as error:
        _drop_output()
        print(f"mimo: cannot write standard output: {error.strerror}", file=sys.stderr)
        return MISUSE
    except KeyboardInterrupt:
        return 130
    return code


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Lines that are drawn become ASCII, any other character that the encoding lacks a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(str.maketrans("─┬├└┤┘", "-+++++"))
    return text.encode("ascii", "replace").decode(), error.end


codecs.register_error("drawing", _replace)


def _drop_output() -> None:
    """Keep the interpreter from failing once more when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _never_fail_on_characters() -> None:
    """Replace what the terminal's encoding lacks; a closed stream becomes one that leads nowhere."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="drawing")


def _print_faults(error: PlanError) -> None:
    from .render.style import plural, style_of  # noqa: PLC0415

    style = style_of(sys.stderr)
    for fault in error.faults:
        head, _, rest = str(fault).partition("\n")
        print(style.warn(head) if fault.is_warning else style.error(head), file=sys.stderr)
        print(rest, file=sys.stderr)
    total = len(error.faults) + error.num_left_out
    shown = f" ({len(error.faults)} shown)" if error.num_left_out else ""
    first = error.faults[0].code if error.faults else NOT_JSON
    print(f"{plural(total, 'fault')}{shown}; `mimo explain {first}` tells more of {first}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Of the command and, as argparse has it, of each of its own: options are written in full.

    Else `--gpu 4`, to a command without it, would be --gpus-per-node.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mimo",
        description="Compile the layout of multimodal training into a proven plan, before asking for a GPU.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in _COMMANDS:
        add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
