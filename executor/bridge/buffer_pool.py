"""Flat buffers that are used again: once the first microbatches have passed, the next ones need no new memory.

Nobody gives a buffer back. A buffer is free when nothing else refers to its memory: no activation that autograd has
saved, no gradient that a parameter has taken over without a copy, no send under way. So there is no rule about
lifetimes that a caller could break.
"""

from __future__ import annotations

import torch


class Pool:
    """Buffers of one dtype on one device.

    Attributes:
        num_allocated: how many buffers were ever made.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.num_allocated = 0
        self._buffers: list[torch.Tensor] = []
        self._uses_alone = _uses_of(torch.empty(1))

    def take(self, num_elements: int) -> torch.Tensor:
        """A flat tensor of `num_elements`, uninitialized, from the smallest free buffer that holds them.

        If no free buffer is large enough, one of them makes room for a new buffer, so that sizes that vary end at the
        largest one.
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
    """How many references there are to a tensor's memory: torch's own count, which is private; torch's CUDA graph
    trees rely on it too."""
    return int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))
