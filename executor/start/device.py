"""Which device and backend this process uses: CUDA with NCCL if there is a GPU, else the CPU with gloo.

Without a GPU, megatron-core's `torch.compile` decorators are turned off before it is imported. They would compile its
fused kernels for the CPU, which takes minutes per process and changes nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

ON_GPU = torch.cuda.is_available()

if not ON_GPU:
    os.environ["TORCHDYNAMO_DISABLE"] = "1"


def backend() -> str:
    """The backend of every process group: "nccl" or "gloo"."""
    return "nccl" if ON_GPU else "gloo"


def select(local_rank: int) -> torch.device:
    """Make the GPU of `local_rank` the current one and return it; without a GPU, return the CPU."""
    if not ON_GPU:
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def current() -> torch.device:
    """The device that this process uses."""
    return torch.device("cuda", torch.cuda.current_device()) if ON_GPU else torch.device("cpu")


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
