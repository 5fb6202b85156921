"""Which transformer layers this process builds: Transformer Engine's if they can run, else megatron-core's local ones.

This is the one place that decides, and it imports neither. Transformer Engine can be imported without a GPU, but then
refuses to build a layer, so a GPU is asked for too.
"""

from __future__ import annotations

from contextvars import ContextVar
from importlib.util import find_spec

from planner.limits.layers import Layers

from ..errors import UnsupportedError
from . import device

_asked: ContextVar[Layers | None] = ContextVar("layers", default=None)


def choose_layers() -> Layers:
    """The layers that were asked for; else Transformer Engine's if there are a GPU and the package, else local ones."""
    asked = _asked.get()
    if asked is not None:
        return asked
    return Layers.TRANSFORMER_ENGINE if _has_transformer_engine() else Layers.LOCAL


def ask_for(layers: Layers | None) -> None:
    """Build these layers from now on, whatever this machine has; with None, what it has.

    Raises:
        UnsupportedError: this machine cannot run them.
    """
    if layers is Layers.TRANSFORMER_ENGINE and not _has_transformer_engine():
        missing = "no GPU" if not device.ON_GPU else "no package transformer_engine"
        raise UnsupportedError(f"--target te: this machine builds local layers, since it has {missing}: leave it out")
    _asked.set(layers)


def _has_transformer_engine() -> bool:
    return device.ON_GPU and find_spec("transformer_engine") is not None
