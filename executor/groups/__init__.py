"""From the plan to process groups, grids and collections of megatron-core."""

from ..start import device as _device  # noqa: F401  before megatron-core: see executor/__init__.py
