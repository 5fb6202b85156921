"""`mimo presets` and `mimo gpus`: what a spec can name."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_format

_OF_MODELS = ("family", "num_layers", "hidden_size", "num_attention_heads")
_OF_GPUS = ("memory_gib", "peak_tflops", "product_tflops", "nvlink_gb_s", "network_gb_s")


def add(commands: Any) -> None:
    """Add both commands."""
    for name, run, what in (
        ("presets", _presets, "list the models that a spec can name"),
        ("gpus", _gpus, "list the GPUs that predictions know"),
    ):
        command = commands.add_parser(name, help=what)
        add_format(command)
        command.set_defaults(run=run)


def _presets(options: argparse.Namespace) -> int:
    from ..spec.presets import PRESETS  # noqa: PLC0415
    from .output import print_table  # noqa: PLC0415

    rows = [{"name": name} | {key: getattr(model, key) for key in _OF_MODELS} for name, model in PRESETS.items()]
    print_table(rows, options)
    return 0


def _gpus(options: argparse.Namespace) -> int:
    from ..cost.timing.hardware import constants, known_hardware, load_hardware  # noqa: PLC0415
    from .output import print_table  # noqa: PLC0415

    rows: list[dict[str, str | float | None]] = []
    for name in known_hardware():
        gpu = constants(load_hardware(name))
        rows.append({"name": name} | {key: gpu[key].value for key in _OF_GPUS})
    print_table(rows, options)
    return 0
