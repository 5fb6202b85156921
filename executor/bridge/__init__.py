"""Tensors from module to module, by the plan's messages."""

from ..start import device as _device  # noqa: F401  before megatron-core: see executor/__init__.py
