"""Proof that what runs is what was planned: groups and bridges before the first step, data and weights in between."""

from ..start import device as _device  # noqa: F401  before megatron-core: see executor/__init__.py
