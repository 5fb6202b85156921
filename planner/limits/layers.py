"""Whose transformer layers a model is built of. In a file of its own, which imports nothing: `--help` names them."""

from __future__ import annotations

from enum import StrEnum


class Layers(StrEnum):
    """Whose transformer layers are built. Only Transformer Engine's attention runs with cp > 1, and only on a GPU."""

    LOCAL = "local"
    TRANSFORMER_ENGINE = "te"

    @property
    def in_words(self) -> str:
        """`local layers`, as messages call them."""
        return "local layers" if self is Layers.LOCAL else "Transformer Engine's layers"
