"""Fingerprints of tensors: equal for equal bits, and as good as never equal otherwise.

A fingerprint is a sum of 32-bit words, each times an odd number that depends on its place, so that swapped elements are
noticed too. It is computed where the tensor is, so that a model on a GPU is not copied to be compared.
"""

from __future__ import annotations

import functools

import torch

_CHUNKS = {"cpu": 1 << 15}  # words that are multiplied at once: few enough to stay in a cache, and for one thread
_CHUNK = 1 << 20  # on other devices, where each chunk costs a few kernels
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 over the golden ratio, as a signed number
_SPACING = 0x3C6EF372FE94F82A  # twice that, modulo 2^64: even, so that all factors are odd
_STEP = 0x2545F4914F6CDD1D
_SHIFT = 2  # bits left over, so that a fingerprint can be negated without overflow


def fingerprint(tensor: torch.Tensor) -> torch.Tensor:
    """A fingerprint of all elements: an int64 without dims, on the tensor's device."""
    words = _words(tensor.detach().reshape(1, -1))[0]
    total = torch.full((), tensor.numel(), dtype=torch.int64, device=tensor.device)
    size = _CHUNKS.get(tensor.device.type, _CHUNK)
    factors = _factors(size, str(tensor.device))
    for chunk in torch.split(words, size):
        total = total * _STEP + (chunk * factors[: len(chunk)]).sum()  # widened to int64 chunk by chunk
    return total >> _SHIFT


def row_fingerprints(tensor: torch.Tensor) -> torch.Tensor:
    """A fingerprint of each row (dim 0): int64, (rows)."""
    words = _words(tensor.detach().reshape(tensor.shape[0], -1)) if tensor.numel() else None
    if words is None:
        return torch.zeros(tensor.shape[0], dtype=torch.int64, device=tensor.device)
    return (words * _factors(words.shape[1], str(tensor.device))).sum(dim=1) >> _SHIFT


def _words(rows: torch.Tensor) -> torch.Tensor:
    """The rows' bits as 32-bit words, or as smaller ones if their bytes do not fill these."""
    if rows.dtype is torch.bool:
        rows = rows.to(torch.uint8)
    rows = rows.contiguous()
    num_bytes = rows.shape[1] * rows.element_size()
    kind = next(kind for kind, size in _KINDS if num_bytes % size == 0)
    return rows.view(kind)


_KINDS = ((torch.int32, 4), (torch.int16, 2), (torch.uint8, 1))


@functools.lru_cache(maxsize=8)
def _factors(count: int, device: str) -> torch.Tensor:
    """Odd numbers, one per place; products and sums of int64 wrap around."""
    return torch.arange(count, dtype=torch.int64, device=device) * _SPACING + _ODD
