"""A lane's part of the global microbatch.

One sampler: all ranks draw the same global microbatch in the same order, and every module's lane takes its own slice
of it. Modules sampled apart would meet tokens and features of different samples (Megatron-Bridge #2956, #5525).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .errors import ExecutorError

POSITION_IDS = "position_ids"
_MROPE_DIMS = 3  # (3, samples, tokens): Qwen's multimodal rotary positions have their channels first


def slice_batch(
    batch: Mapping[str, Any],
    samples: slice,
    micro_size: int,
    num_items: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """The part of a microbatch that belongs to `samples`.

    Args:
        batch: tensors, values, and mappings of these. Tensors hold the samples in dim 0; mRoPE position ids
            (3, samples, tokens) in dim 1; tensors named in `num_items` hold images, patches or clips in dim 0.
        samples: the lane's samples, `plan.batch.slice(module, rank)`.
        micro_size: samples of the whole microbatch.
        num_items: per key, how many rows of the tensor each sample has.

    Raises:
        ExecutorError: a tensor's rows are neither samples nor items.
    """
    counts = num_items or {}
    return {key: _part(key, value, samples, micro_size, counts) for key, value in batch.items()}


def _part(key: str, value: Any, samples: slice, micro_size: int, counts: Mapping[str, Sequence[int]]) -> Any:
    if isinstance(value, Mapping):
        return {name: _part(name, part, samples, micro_size, counts) for name, part in value.items()}
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return value
    if key in counts:
        return _items(key, value, samples, counts[key])
    dim = 1 if key == POSITION_IDS and value.ndim == _MROPE_DIMS else 0
    if value.shape[dim] != micro_size:
        raise ExecutorError(
            f"batch key {key!r}: dim {dim} holds the microbatch's {micro_size} samples, got {value.shape[dim]} rows; "
            "name it in num_items if its rows are images, patches or clips"
        )
    return value[:, samples] if dim else value[samples]


def _items(key: str, value: torch.Tensor, samples: slice, counts: Sequence[int]) -> torch.Tensor:
    if sum(counts) != value.shape[0]:
        raise ExecutorError(f"batch key {key!r}: sum(num_items) = {sum(counts)} rows, got {value.shape[0]}")
    first = sum(counts[: samples.start])
    return value[first : first + sum(counts[samples])]
