"""`mimo diff`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .options import MisuseError, add_format, add_world, load


def add(commands: Any) -> None:
    """Add the command."""
    diff = commands.add_parser("diff", help="say what changed between two specs or plans")
    diff.add_argument("before", metavar="A", help="a spec or plan")
    diff.add_argument("after", metavar="B", help="a spec or plan")
    add_world(diff)
    add_format(diff)
    diff.set_defaults(run=_diff, strict=False)


def _diff(options: argparse.Namespace) -> int:
    from ..diff import differences  # noqa: PLC0415

    if options.before == "-" and options.after == "-":
        raise MisuseError("only one of the two can be standard input")
    lines = differences(load(options.before, options), load(options.after, options))
    if options.format == "json":
        print(json.dumps({"differences": lines}, indent=2))
    else:
        print("\n".join(lines) if lines else "no difference: the plans are equal")
    return 0
