"""`mimo gpus`."""

from __future__ import annotations

import argparse
from typing import Any

from .options import add_format

_SHOWN = ("memory_gib", "peak_tflops", "product_tflops", "nvlink_gb_s", "network_gb_s")


def add(commands: Any) -> None:
    """Add the command."""
    gpus = commands.add_parser("gpus", help="list the GPUs that predictions know")
    add_format(gpus)
    gpus.set_defaults(run=_gpus)


def _gpus(options: argparse.Namespace) -> int:
    from ..cost.timing.hardware import constants, known_hardware, load_hardware  # noqa: PLC0415
    from .output import print_table  # noqa: PLC0415

    rows: list[dict[str, str | float | None]] = []
    for name in known_hardware():
        gpu = constants(load_hardware(name))
        rows.append({"name": name} | {key: gpu[key].value for key in _SHOWN})
    print_table(rows, options)
    return 0
