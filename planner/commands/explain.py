"""`mimo explain`."""

from __future__ import annotations

import argparse
from typing import Any

from ..base import codes
from .options import MisuseError


def add(commands: Any) -> None:
    """Add the command."""
    explain = commands.add_parser("explain", help="explain a diagnostic")
    explain.add_argument("code", metavar="CODE", nargs="?", help="a code such as P004; without one, all are listed")
    explain.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    from ..render.style import stdout_style, wrap  # noqa: PLC0415
    from ..spec.fields import suggest  # noqa: PLC0415

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
