"""Which transformer layers this process builds: Transformer Engine's where they can run, else megatron-core's local
ones. The one place that decides; it imports neither.

Transformer Engine imports without a GPU, but refuses to build a layer there.
"""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec

from . import device


class Layers(StrEnum):
    """Where layers come from. Only Transformer Engine's attention runs with cp > 1."""

    LOCAL = "local"
    TRANSFORMER_ENGINE = "transformer_engine"


def choose_layers() -> Layers:
    """Transformer Engine's layers where there is a GPU and the package, else local ones."""
    if device.ON_GPU and find_spec("transformer_engine") is not None:
        return Layers.TRANSFORMER_ENGINE
    return Layers.LOCAL
