"""`mimo completion`: a script that completes commands and options in a shell, so that completing starts no Python."""

from __future__ import annotations

import argparse
from typing import Any

_SHELLS = ("bash", "zsh", "tcsh")
_FILES = frozenset(("SPEC", "FILE", "CSV", "A", "B"))


def add(commands: Any) -> None:
    """Add the command."""
    completion = commands.add_parser(
        "completion",
        help="print a script that completes commands in a shell",
        description="For bash: mimo completion bash > ~/.local/share/bash-completion/completions/mimo. For zsh, a file "
        "_mimo in a folder of $fpath. For tcsh, a file that ~/.tcshrc sources.",
    )
    completion.add_argument("shell", choices=_SHELLS)
    completion.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
    import shtab  # noqa: PLC0415

    _tell_values(options.parser)
    print(shtab.complete(options.parser, options.shell))
    return 0


def _tell_values(parser: argparse.ArgumentParser) -> None:
    """Say which arguments are files, and which are GPUs, of this parser and those of its commands."""
    import shtab  # noqa: PLC0415

    from ..cost.timing.hardware import known_hardware  # noqa: PLC0415

    for action in parser._actions:  # argparse offers no other way
        if isinstance(action.choices, dict):
            for inner in action.choices.values():
                _tell_values(inner)
        elif "--gpu" in action.option_strings:
            action.choices = list(known_hardware())
        elif action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
