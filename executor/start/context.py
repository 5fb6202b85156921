"""One process of a run: what torchrun's environment says, the store, the default group, and their end.

The store comes before the default group, and the default group before any other: `agree.py` compares the plan
over the store in between. Without torchrun's environment the run is one rank.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version
from types import MappingProxyType

import attrs
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from ..errors import ExecutorError
from . import device
from .agree import Claim, agree

DEFAULT_TIMEOUT = timedelta(seconds=120)
_LINGER_SECONDS = 5.0
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@attrs.frozen
class Versions:
    """The installed versions that a run depends on."""

    torch: str
    megatron_core: str

    @classmethod
    def installed(cls) -> Versions:
        return cls(version("torch"), version("megatron-core"))


@attrs.frozen
class Context:
    """A started process.

    Attributes:
        claim: decides which one of several failing ranks speaks.
    """

    rank: int
    world_size: int
    device: torch.device
    timeout: timedelta
    store: Store
    claim: Claim

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which prints."""
        return self.rank == 0


def connect(timeout: timedelta = DEFAULT_TIMEOUT) -> Context:
    """Meet the other processes at the store; no process group exists yet.

    Raises:
        ExecutorError: the environment names some of torchrun's variables and not others, or no numbers in them.
    """
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing and len(missing) < len(_VARIABLES):
        raise ExecutorError(f"the environment lacks {', '.join(missing)}: start with torchrun")
    rank, world_size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if not 0 <= rank < world_size:
        raise ExecutorError(f"0 <= RANK < WORLD_SIZE in the environment, got {rank} and {world_size}: use torchrun")
    # The launcher's store outlives a restart, and so would the keys of the attempt before: torch's own rendezvous
    # keeps attempts apart in this way (torch/distributed/rendezvous.py, _create_c10d_store).
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"attempt{attempt}", HashStore() if missing else _open_store(rank, timeout))
    store.set_timeout(timeout)
    chosen = device.select(_number("LOCAL_RANK", rank))
    return Context(rank, world_size, chosen, timeout, store, Claim(PrefixStore("claim", store), rank))


def _number(name: str, default: int) -> int:
    """A variable of the environment. Raises ExecutorError."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise ExecutorError(f"{name} in the environment is a number, got {text[:40]!r}: start with torchrun")
    return int(text)


def _open_store(rank: int, timeout: timedelta) -> Store:
    """The store at torchrun's address. It does not wait for all ranks: agree.py does, and names who is missing."""
    return TCPStore(
        os.environ["MASTER_ADDR"],
        _number("MASTER_PORT", 0),
        is_master=rank == 0 and not _launcher_hosts_store(),
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=True,
    )


def _launcher_hosts_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def leave(context: Context) -> None:
    """Leave after a failure. Where rank 0 hosts the store it leaves last, or a slower rank would look for it in vain.

    A dead rank never leaves, so the wait is short.
    """
    deadline = time.monotonic() + min(_LINGER_SECONDS, context.timeout.total_seconds())
    try:
        num_left = context.store.add("left", 1)
        while context.is_first and not _launcher_hosts_store() and num_left < context.world_size:
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)
            num_left = context.store.add("left", 0)
    except RuntimeError:  # the store is gone already
        return


@contextmanager
def started(
    context: Context, digest: str, plan_world_size: int, options: Mapping[str, str] = MappingProxyType({})
) -> Iterator[None]:
    """Agree on the plan and on `options`, then hold the default process group and megatron-core's one global buffer.

    Raises:
        DisagreementError: before any process group, where ranks differ.
    """
    found = {"plan": digest, **attrs.asdict(Versions.installed()), **options}
    store = PrefixStore("agree", context.store)
    agree(store, context.rank, context.world_size, plan_world_size, found, context.timeout)
    dist.init_process_group(
        device.backend(),
        store=PrefixStore("world", context.store),
        rank=context.rank,
        world_size=context.world_size,
        timeout=context.timeout,
    )
    from megatron.core import parallel_state  # noqa: PLC0415  seconds to import: only once the ranks agree

    parallel_state._set_global_memory_buffer()  # linear layers under sequence parallelism gather into it
    with device.ready():
        yield
    # Only after success: on a failed rank, destroying groups could wait for peers that will not come.
    parallel_state.destroy_global_memory_buffer()
    dist.destroy_process_group()
