"""Flat buffers that are used again: a microbatch needs no new memory once the first ones have been through."""

from __future__ import annotations

import attrs
import torch


@attrs.frozen(eq=False)
class Buffer:
    """Memory of a pool, and the elements of it that were asked for."""

    whole: torch.Tensor
    flat: torch.Tensor


class Pool:
    """Free buffers of one dtype on one device. A taken buffer is the taker's until it is given back.

    Attributes:
        num_allocated: buffers ever made.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.num_allocated = 0
        self._free: list[torch.Tensor] = []

    def take(self, num_elements: int) -> Buffer:
        """A buffer of that many elements, in the smallest free one that holds them.

        Where none does, a free one that is too small makes room for a new one: sizes that vary end at the largest.
        """
        fitting = [index for index, free in enumerate(self._free) if free.numel() >= num_elements]
        if fitting:
            whole = self._free.pop(min(fitting, key=lambda index: self._free[index].numel()))
        else:
            del self._free[:1]
            whole = torch.empty(num_elements, dtype=self.dtype, device=self.device)
            self.num_allocated += 1
        return Buffer(whole, whole[:num_elements])

    def give(self, buffer: Buffer) -> None:
        """Take a buffer back. It must not be read any more, and no operation on it be under way."""
        self._free.append(buffer.whole)
