"""Which device and backend this process uses: CUDA with NCCL if there is a GPU, else the CPU with gloo.

Without a GPU, megatron-core's `torch.compile` decorators are turned off before it is imported. They would compile its
fused kernels for the CPU, which takes minutes per process and changes nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from ..errors import ExecutorError

ON_GPU = torch.cuda.is_available()

if not ON_GPU:
    os.environ["TORCHDYNAMO_DISABLE"] = "1"


def backend() -> str:
    """The backend of every process group: "nccl" or "gloo"."""
    return "nccl" if ON_GPU else "gloo"


def is_nccl() -> bool:
    """Whether the default group moves this process's tensors over NCCL, under whatever name."""
    return ON_GPU and "nccl" in str(dist.get_backend_config())


def select(local_rank: int) -> torch.device:
    """Make the GPU of `local_rank` the current one and return it; without a GPU, return the CPU."""
    if not ON_GPU:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ExecutorError(f"LOCAL_RANK < {count} GPUs of this node, got {local_rank}: start {count} processes on it")
    torch.cuda.set_device(local_rank)
    torch.backends.cudnn.deterministic = True  # tp ranks hold copies of a convolution, whose gradients must stay equal
    return torch.device("cuda", local_rank)


def current() -> torch.device:
    """The device that this process uses."""
    return torch.device("cuda", torch.cuda.current_device()) if ON_GPU else torch.device("cpu")


def patience(timeout: timedelta) -> timedelta:
    """How long an operation of a group may take where ranks wait `timeout` for one another.

    NCCL's own watchdog aborts the process then, before ours can say which rank is lost; so it gets twice the time.
    """
    return 2 * timeout if ON_GPU else timeout


@contextmanager
def ready() -> Iterator[None]:
    """While active, megatron-core runs on this process's device."""
    if ON_GPU:
        yield
        return
    from .cpu_emulation import emulated  # noqa: PLC0415  never imported if there is a GPU

    with emulated():
        yield


def memory_bytes() -> int:
    """Peak memory of this process in bytes: on its GPU, or resident if it has none."""
    if ON_GPU:
        return int(torch.cuda.max_memory_allocated())
    import resource  # noqa: PLC0415  missing on some platforms that have a GPU

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
