"""The former name of `executor.training.synthetic_data`, kept for one release."""

from __future__ import annotations

import warnings
from typing import Any

from .training import synthetic_data as _moved


def __getattr__(name: str) -> Any:
    value = getattr(_moved, name)
    warnings.warn("executor.data is now executor.training.synthetic_data", DeprecationWarning, stacklevel=2)
    return value
