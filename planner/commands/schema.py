"""`mimo schema`."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add(commands: Any) -> None:
    """Add the command."""
    schema = commands.add_parser("schema", help="print the JSON Schema of specs, for editors")
    schema.set_defaults(run=_schema)


def _schema(options: argparse.Namespace) -> int:  # noqa: ARG001  every command takes options
    from ..cost.timing.hardware import known_hardware  # noqa: PLC0415
    from ..spec.json_schema import spec_schema  # noqa: PLC0415

    print(json.dumps(spec_schema(known_hardware()), indent=2))
    return 0
