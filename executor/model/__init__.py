"""A rank's part of the MimoModel: sizes, layers, weights and random streams that do not depend on the layout."""

from ..start import device as _device  # noqa: F401  before megatron-core: see executor/__init__.py
