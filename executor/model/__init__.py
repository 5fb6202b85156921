"""What a rank holds of the MimoModel: its layers, and weights and random streams that do not depend on the layout."""

from ..start import device as _device  # noqa: F401  before megatron-core: see executor/__init__.py
