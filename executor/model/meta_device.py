"""Builds models whose parameters have sizes but no storage: the model of any rank of any world, on any machine.

`torch.device("meta")` alone is not enough, because megatron-core's parallel layers name their device themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_META = torch.device("meta")


class _DeviceIsMeta(TorchFunctionMode):
    """Makes every tensor for which a device is named on the meta device instead."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = _META
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """While active, new tensors have no storage."""
    with _META, _DeviceIsMeta():
        yield
