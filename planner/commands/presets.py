"""`mimo presets`."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_format

_SHOWN = ("family", "num_layers", "hidden_size", "num_attention_heads")


def add(commands: Any) -> None:
    """Add the command."""
    presets = commands.add_parser("presets", help="list the models that a spec can name")
    add_format(presets)
    presets.set_defaults(run=_presets)


def _presets(options: argparse.Namespace) -> int:
    from ..spec.presets import PRESETS  # noqa: PLC0415
    from .output import print_table  # noqa: PLC0415

    rows = [{"name": name} | {key: getattr(model, key) for key in _SHOWN} for name, model in PRESETS.items()]
    print_table(rows, options)
    return 0
