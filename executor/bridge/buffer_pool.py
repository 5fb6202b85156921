"""Flat buffers that are used again: a microbatch needs no new memory once the first ones have been through.

Nobody gives a buffer back. It is free when nothing else refers to its memory: no activation that autograd has saved,
no gradient that a parameter took over without a copy, no send under way. So no rule about lifetimes can be broken.
"""

from __future__ import annotations

import torch


class Pool:
    """Buffers of one dtype on one device.

    Attributes:
        num_allocated: buffers ever made.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.num_allocated = 0
        self._buffers: list[torch.Tensor] = []
        self._uses_alone = _uses_of(torch.empty(1))

    def take(self, num_elements: int) -> torch.Tensor:
        """That many elements of the smallest free buffer that holds them.

        Where none does, a free one that is too small makes room for a new one: sizes that vary end at the largest.
        """
        free = [index for index, buffer in enumerate(self._buffers) if _uses_of(buffer) == self._uses_alone]
        fitting = [index for index in free if self._buffers[index].numel() >= num_elements]
        if fitting:
            chosen = min(fitting, key=lambda index: self._buffers[index].numel())
            return self._buffers[chosen][:num_elements]
        if free:
            del self._buffers[free[0]]
        self._buffers.append(torch.empty(num_elements, dtype=self.dtype, device=self.device))
        self.num_allocated += 1
        return self._buffers[-1][:num_elements]


def _uses_of(tensor: torch.Tensor) -> int:
    """References to a tensor's memory; torch's own count, private, which its CUDA graph trees rely on, too."""
    return int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))
