"""Connects all gloo groups of a rank at once. Not used with NCCL, which opens nothing before a group's first operation.

torch connects one group after another. For each it makes a gloo device (which looks up the host's name, listens on a
port and starts a thread), writes the rank's address to the store, and asks the store for the address of every other
member, one by one; all members wait for the slowest in each group. Here:

- All groups of a process share the device of its default group, which can serve any number of them.
- Every group writes its address to a store in memory, and waits there for the addresses of its other members. Meanwhile
  one message takes the addresses of all groups to the store where ranks meet, and another brings those of all peers.
- Then all groups connect at the same time.
- A group has one thread for its collectives instead of two: they run in the order in which they were issued.
"""

from __future__ import annotations

from _thread import start_new_thread
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store
from torch.distributed import distributed_c10d

_ADDRESS = "0/{}"  # gloo's key for the address of a member: the device's number, then the member's place in the group


def connect_all(groups: Mapping[str, Sequence[int]], rank: int, store: Store, timeout: timedelta) -> dict[str, Any]:
    """Backends for all groups of a rank, by name. Collective over the members of each group.

    Args:
        groups: the members of each group, by a name that is the same on all of them. This rank is in every group.
        store: where ranks meet; nobody else uses it.
        timeout: how long to wait for a peer, and how long an operation of a group may take.

    Raises:
        RuntimeError: a peer did not come, or creates other groups.
    """
    real: Any = distributed_c10d.ProcessGroupGloo  # absent from a torch without gloo, which never calls this
    options = real._Options()  # private, and so are the attributes
    options._devices, options._timeout, options._threads = [_device(real)], timeout, 1
    meetings = {name: HashStore() for name in groups}

    def connect(name: str, backend: Future[Any]) -> None:
        place = groups[name].index(rank)
        try:
            backend.set_result(real(meetings[name], place, len(groups[name]), options))
        except BaseException as error:
            meetings[name].set(_ADDRESS.format(place), "")  # in case that it failed before it wrote its address
            backend.set_exception(error)

    backends: dict[str, Future[Any]] = {name: Future() for name in groups}
    for item in backends.items():
        if len(groups[item[0]]) == 1:
            connect(*item)  # waits for nobody
        else:
            start_new_thread(connect, item)  # left behind if a peer does not come; it ends with the timeout
    theirs = [(name, place, peer) for name, ranks in groups.items() for place, peer in enumerate(ranks) if peer != rank]
    if theirs:
        addresses = [meetings[name].get(_ADDRESS.format(ranks.index(rank))) for name, ranks in groups.items()]
        store.multi_set([f"{name}/{rank}" for name in groups], addresses)  # type: ignore[attr-defined]  # not in stubs
        keys = [f"{name}/{peer}" for name, _, peer in theirs]
        if store.timeout != timeout:  # type: ignore[attr-defined]  # else multi_get, which waits as the store does, is enough
            store.wait(keys, timeout)
        for (name, place, _), address in zip(theirs, store.multi_get(keys), strict=True):
            meetings[name].set(_ADDRESS.format(place), address)  # type: ignore[arg-type]  # takes bytes as well
    return {name: backend.result() for name, backend in backends.items()}


def _device(real: Any) -> Any:
    """The device of the default group; a new one if torch's debug mode hides it."""
    world: Any = dist.group.WORLD
    options = getattr(world._get_backend(torch.device("cpu")), "options", None)
    return next(iter(getattr(options, "_devices", ())), None) or real.create_default_device()


@contextmanager
def handing_over(backend: Any) -> Iterator[None]:
    """While active, the gloo backend that torch makes next is this one."""
    real: Any = distributed_c10d.ProcessGroupGloo
    distributed_c10d.ProcessGroupGloo = _HandsOver(real, backend)  # type: ignore[misc,assignment]  # looked up there
    try:
        yield
    finally:
        distributed_c10d.ProcessGroupGloo = real  # type: ignore[misc]


class _HandsOver:
    """Stands in for the class of gloo backends, also where torch asks whether a backend is of that class."""

    def __init__(self, real: Any, backend: Any) -> None:
        self._real, self._backends = real, [backend]

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self._backends:
            return self._backends.pop()
        return self._real(*args, **options)  # a helper of torch's debug mode

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._real)

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self._real)
