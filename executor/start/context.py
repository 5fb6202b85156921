"""One process of a run: what torchrun's environment says, the store, the default group, and how they end.

The store comes first, in which the ranks of this attempt meet (meet.py); then the default group, then all other groups.
Between the store and the default group, agree.py compares the plan over the store. Without torchrun's environment the
run is one rank.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import MappingProxyType

import attrs
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from ..errors import ExecutorError
from ..watch import progress
from . import DEFAULT_TIMEOUT, device
from .agree import Nodes, agree, withdraw
from .meet import meet
from .nodes import Place
from .versions import installed

_AGREE = "agree"  # the agreement's part of the store
_LAST_PORT = 65535
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@attrs.frozen
class Context:
    """A started process.

    Attributes:
        rank: global rank.
        device: the device that this process uses.
        timeout: how long a rank waits for another.
        store: the store of this attempt; a restart has another.
        run: the id of this attempt, equal on all ranks and different for every other.
    """

    rank: int
    world_size: int
    device: torch.device
    timeout: timedelta
    store: Store
    run: str

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which prints."""
        return self.rank == 0


def connect(timeout: timedelta = DEFAULT_TIMEOUT) -> Context:
    """Connect to the store, and meet the other ranks there. No process group exists yet.

    Raises:
        UnmetError: a rank did not come.
        ExecutorError: the environment has only some of torchrun's variables, or a variable that is no number or out of
            range.
    """
    progress.at("connecting")
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing and len(missing) < len(_VARIABLES):
        raise ExecutorError(f"the environment lacks {', '.join(missing)}: start with torchrun")
    rank, world_size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if not 0 <= rank < world_size:
        raise ExecutorError(f"0 <= RANK < WORLD_SIZE in the environment, got {rank} and {world_size}: use torchrun")
    chosen = device.select(_number("LOCAL_RANK", rank))
    launchers = PrefixStore("mimo", HashStore() if missing else _open_store(rank, timeout))
    launchers.set_timeout(timeout)
    run = meet(launchers, rank, world_size, timeout)
    return Context(rank, world_size, chosen, timeout, PrefixStore(run, launchers), run)


def _number(name: str, default: int) -> int:
    """A variable of the environment, or `default` if it is not set. Raises ExecutorError if it is no number."""
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal()):
        raise ExecutorError(f"{name} in the environment is a number, got {text[:40]!r}: start with torchrun")
    return int(text)


def _open_store(rank: int, timeout: timedelta) -> Store:
    """The store at torchrun's address. It does not wait for all ranks: meet.py does, and names the missing ones."""
    port = _number("MASTER_PORT", 0)
    if port > _LAST_PORT:
        raise ExecutorError(f"MASTER_PORT <= {_LAST_PORT}, got {port}: start with torchrun, or name a free port")
    return TCPStore(
        os.environ["MASTER_ADDR"],
        port,
        is_master=rank == 0 and not _launcher_hosts_store(),
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=True,
    )


def _launcher_hosts_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def leave(context: Context, reason: str) -> None:
    """Tell ranks that still wait for this one to agree that it will not come.

    Args:
        reason: what went wrong, of which the first line is told.
    """
    withdraw(PrefixStore(_AGREE, context.store), context.rank, reason.partition("\n")[0])


@contextmanager
def started(
    context: Context,
    digest: str,
    plan_world_size: int,
    options: Mapping[str, str] = MappingProxyType({}),
    *,
    gpus_per_node: int | None = None,
    any_node_shape: bool = False,
) -> Iterator[str]:
    """Agree on the plan and on `options`; then, while active, there is a default process group and the one global
    buffer of megatron-core. Gives what is to be told of the nodes, if ranks lie otherwise than planned and may.

    Args:
        digest: digest of the plan.
        options: what else must be equal on all ranks, as names and values.
        gpus_per_node: the plan's; None to compare no nodes.
        any_node_shape: whether ranks may lie on nodes of another shape.

    Raises:
        DisagreementError: the ranks differ. No process group was created.
    """
    found = {"plan": digest, **installed(), "timeout": str(context.timeout), **options}
    nodes = Nodes(gpus_per_node=gpus_per_node, place=Place.here(), any_shape=any_node_shape)
    progress.at("agreeing")
    store = PrefixStore(_AGREE, context.store)
    told = agree(store, context.rank, context.world_size, plan_world_size, found, context.timeout, nodes=nodes)
    progress.at("connecting to all ranks")
    dist.init_process_group(
        device.backend(),
        store=PrefixStore("world", context.store),
        rank=context.rank,
        world_size=context.world_size,
        timeout=device.patience(context.timeout),
    )
    progress.at("importing megatron-core")
    from megatron.core import parallel_state  # noqa: PLC0415  takes seconds to import: only once the ranks agree

    parallel_state._set_global_memory_buffer()  # linear layers under sequence parallelism gather into it
    with device.ready():
        yield told
    progress.at(progress.ENDING)
    # Only after success: on a rank that failed, destroying groups could wait for peers that will not come.
    parallel_state.destroy_global_memory_buffer()
    dist.destroy_process_group()
