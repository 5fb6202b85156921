"""Lets megatron-core 0.19 run without a GPU. This is the only file that knows how; with a GPU it is not imported.

megatron-core names CUDA directly in about a dozen places. While `emulated()` is active:
- tensors that are asked for on "cuda" are made on the CPU, and `Tensor.type()` answers as it would for CUDA (the
  optimizers compare those strings);
- the streams of `torch.cuda` do nothing, and its random state is torch's default CPU generator, so that megatron-core's
  RNG tracker works. Without this, torch would silently queue the tracker's seeds for a GPU that never comes;
- all-to-all accepts split sizes as tensors, which is how the expert dispatcher passes them;
- all of this also holds while gradients are computed, since recomputed layers ask for CUDA again.

torch's function mode is local to a thread: run the model in the thread that entered the context.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

_CPU = torch.device("cpu")


def _is_cuda(device: Any) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


class _CudaIsCpu(TorchFunctionMode):
    """Redirects to the CPU what is meant for CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": _CPU}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], _CPU, *args[2:])
        result = func(*args, **kwargs)
        if func is torch.Tensor.type and isinstance(result, str):
            return result.replace("torch.", "torch.cuda.", 1) if ".cuda." not in result else result
        return result


class _Stream:
    """A stream that runs everything at once."""

    def wait_stream(self, other: object) -> None:
        """Nothing to wait for."""

    def wait_event(self, event: object) -> None:
        """Nothing to wait for."""

    def record_event(self, event: object = None) -> _Stream:
        """A point in the stream's work. All work is done already, so the stream itself serves as the event."""
        del event
        return self

    def synchronize(self) -> None:
        """Nothing to wait for."""


def _get_state(device: Any = None, clone: bool = False, graph_safe: bool = False) -> torch.Tensor:  # noqa: ARG001
    return torch.random.get_rng_state()


def _set_state(state: torch.Tensor, device: Any = None, graph_safe: bool = False) -> None:  # noqa: ARG001
    torch.random.set_rng_state(state)


def _seed(seed: int) -> None:
    torch.random.manual_seed(seed)


def _all_to_all_single(
    output: torch.Tensor,
    tensor: torch.Tensor,
    output_split_sizes: Any = None,
    input_split_sizes: Any = None,
    **kwargs: Any,
) -> Any:
    return _real_all_to_all_single(output, tensor, _sizes(output_split_sizes), _sizes(input_split_sizes), **kwargs)


def _sizes(splits: Any) -> Any:
    return splits.tolist() if isinstance(splits, torch.Tensor) else splits


def _backward(*args: Any, **kwargs: Any) -> Any:
    """The autograd engine, with the mode entered again: torch leaves it while a call to `backward` runs."""
    with _CudaIsCpu():
        return _real_backward(*args, **kwargs)


_real_all_to_all_single = dist.all_to_all_single
_real_backward = torch.autograd._engine_run_backward  # type: ignore[attr-defined]  # private


def _replacements() -> list[tuple[Any, str, Any]]:
    from megatron.core.tensor_parallel import random  # noqa: PLC0415  only after device.py has prepared the import

    stream = _Stream()
    nothing: Callable[..., None] = lambda *_args, **_kwargs: None  # noqa: E731
    return [
        (torch.cuda, "current_device", lambda: _CPU),
        (torch.cuda, "synchronize", nothing),
        (torch.cuda, "empty_cache", nothing),
        (torch.cuda, "current_stream", lambda *_: stream),
        (torch.cuda, "Stream", lambda *_args, **_kwargs: stream),
        (torch.cuda, "stream", lambda *_: contextlib.nullcontext()),
        (torch.cuda, "get_rng_state", _get_state),
        (torch.cuda, "set_rng_state", _set_state),
        (torch.cuda, "manual_seed", _seed),
        (random, "_get_cuda_rng_state", _get_state),
        (random, "_set_cuda_rng_state", _set_state),
        (dist, "all_to_all_single", _all_to_all_single),
        (torch.autograd, "_engine_run_backward", _backward),
    ]


@contextlib.contextmanager
def emulated() -> Iterator[None]:
    """While active, megatron-core runs on the CPU."""
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in _replacements()]
    for owner, name, value in _replacements():
        setattr(owner, name, value)
    try:
        with _CudaIsCpu():
            yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)
