"""What a step needs beside the model: gradients, the optimizer, samples."""

from ..start import device as _device  # noqa: F401  before megatron-core: see executor/__init__.py
