"""The former name of `executor.bridge.packed`, kept for one release."""

from __future__ import annotations

import warnings
from typing import Any

from .bridge import packed as _moved


def __getattr__(name: str) -> Any:
    value = getattr(_moved, name)
    warnings.warn("executor.rows is now executor.bridge.packed", DeprecationWarning, stacklevel=2)
    return value
