"""Proof that what runs is what was planned: groups and bridges before the first step, data and weights in between."""

from ..start import device as _device  # noqa: F401  before megatron-core: see executor/__init__.py
from ..start.versions import check_versions as _check_versions

_check_versions()  # other versions may lack what these files import
