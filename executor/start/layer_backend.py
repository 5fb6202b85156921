"""Which transformer layers this process builds: Transformer Engine's if they can run, else megatron-core's local ones.

This is the one place that decides, and it imports neither. Transformer Engine can be imported without a GPU, but then
refuses to build a layer, so a GPU is asked for too.
"""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec

from . import device


class Layers(StrEnum):
    """Whose layers are built. Only Transformer Engine's attention runs with cp > 1."""

    LOCAL = "local"
    TRANSFORMER_ENGINE = "transformer_engine"


def choose_layers() -> Layers:
    """Transformer Engine's layers if there are a GPU and the package, else local ones."""
    if device.ON_GPU and find_spec("transformer_engine") is not None:
        return Layers.TRANSFORMER_ENGINE
    return Layers.LOCAL
