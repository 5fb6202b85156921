"""The former name of `executor.start.device`, kept for one release."""

from __future__ import annotations

import warnings
from typing import Any

from .start import device as _moved


def __getattr__(name: str) -> Any:
    value = getattr(_moved, name)
    warnings.warn("executor.device is now executor.start.device", DeprecationWarning, stacklevel=2)
    return value
