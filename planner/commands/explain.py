"""`mimo explain`."""

from __future__ import annotations

import argparse
from typing import Any

from ..base import codes
from ..spec.fields import suggest
from .options import MisuseError


def add_explain(commands: Any) -> None:
    """Add the command."""
    explain = commands.add_parser("explain", help="tell more of a diagnostic")
    explain.add_argument("code", metavar="CODE", nargs="?", help="such as P004; left out: list all")
    explain.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    from ..render.style import stdout_style, wrap  # noqa: PLC0415

    if options.code is None:
        for code in codes.CODES.values():
            print(f"{code}  {code.summary}")
        return 0
    found = codes.CODES.get(options.code.upper())
    if found is None:
        close = suggest(options.code, list(codes.CODES))
        raise MisuseError(f"no diagnostic {options.code[:40]!r}; {close}`mimo explain` lists all")
    level = "a warning; --strict makes it an error" if found.is_warning else "an error"
    text = wrap(found.explanation.split(), stdout_style("never").width)
    print(f"{found}: {found.summary} ({level})", "", *text, sep="\n")
    return 0
