"""`mimo explain`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from ..base import codes
from .options import MisuseError, add_format

_LEVELS = {
    "error": "an error",
    "warning": "a warning; --strict makes it an error",
    "note": "a note; --strict leaves it alone",
}


def add(commands: Any) -> None:
    """Add the command."""
    explain = commands.add_parser("explain", help="explain a diagnostic")
    explain.add_argument("code", metavar="CODE", nargs="?", help="a code such as P004; without one, all are listed")
    add_format(explain)
    explain.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    from ..render.style import stdout_style, wrap  # noqa: PLC0415
    from ..spec.fields import suggest  # noqa: PLC0415

    if options.code is None:
        found = [*codes.CODES.values()]
        print(_json(found) if options.format == "json" else "\n".join(f"{code}  {code.summary}" for code in found))
        return 0
    code = codes.CODES.get(options.code.upper())
    if code is None:
        close = suggest(options.code, list(codes.CODES))
        raise MisuseError(f"no diagnostic {options.code[:40]!r}; {close}`mimo explain` lists all")
    if options.format == "json":
        print(_json([code]))
        return 0
    level = _LEVELS[code.severity]
    width = stdout_style("never").width
    print(
        *wrap(f"{code}: {code.summary} ({level})".split(), width), "", *wrap(code.explanation.split(), width), sep="\n"
    )
    return 0


def _json(found: Iterable[codes.Code]) -> str:
    keys = ("name", "severity", "summary", "explanation")
    return json.dumps([{key: getattr(code, key) for key in keys} for code in found], indent=2)
