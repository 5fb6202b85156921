"""Gloo groups that open quickly. With NCCL this is not used: there nothing is opened before the first operation.

torch makes a new gloo device for every group: it looks up the host's name, listens on a port and starts a thread
that serves it. A device can serve any number of groups, so here all of a process share one. And a group of one rank
meets nobody, so it needs no store on another machine. Both halve a group's cost; members still connect at creation.
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
    real: Any = distributed_c10d.ProcessGroupGloo  # not there in a torch without gloo, which never comes here
    device = real.create_default_device()

    def create(store: Store, rank: int, size: int, timeout: timedelta, **_: Any) -> Any:
        options = real._Options()  # private; so is the choice of a device
        options._devices, options._timeout = [device], timeout
        return real(HashStore() if size == 1 else store, rank, size, options)

    distributed_c10d.ProcessGroupGloo = create  # type: ignore[misc,assignment]  # the name that new_group looks up
    try:
        yield
    finally:
        distributed_c10d.ProcessGroupGloo = real  # type: ignore[misc]
