"""Opens gloo groups quickly. Not used with NCCL, which opens nothing before a group's first operation.

For every group torch makes a new gloo device: it looks up the host's name, listens on a port and starts a thread that
serves the device. But a device can serve any number of groups, so here all groups of a process share one. And a
group of one rank has nobody to meet, so it needs no store on another machine. Both halve the cost of a group; its
members still connect when it is created.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import HashStore, Store
from torch.distributed import distributed_c10d


@contextmanager
def one_device() -> Iterator[None]:
    """While active, `new_group` makes gloo groups that share one device."""
    real: Any = distributed_c10d.ProcessGroupGloo  # absent from a torch without gloo, which never calls this
    device = real.create_default_device()

    class OnOneDevice(real):  # a class, because torch also asks whether a group is of this kind
        def __init__(self, store: Store, rank: int, size: int, timeout: timedelta, **_: Any) -> None:
            options = real._Options()  # private, and so are the two attributes that choose the device and the timeout
            options._devices, options._timeout = [device], timeout
            super().__init__(HashStore() if size == 1 else store, rank, size, options)

    distributed_c10d.ProcessGroupGloo = OnOneDevice  # type: ignore[misc,assignment]  # the name that new_group looks up
    try:
        yield
    finally:
        distributed_c10d.ProcessGroupGloo = real  # type: ignore[misc]
