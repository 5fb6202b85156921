"""What a training step needs besides the model: gradients, the optimizer and samples."""

from ..start import device as _device  # noqa: F401  before megatron-core: see executor/__init__.py
