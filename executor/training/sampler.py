"""One order of samples for the whole model.

Modules sampled apart meet tokens and features of different samples (Megatron-Bridge #2956, #5525). Here the order is
a function of a seed and of how many samples were consumed, and of no rank: every rank draws the same microbatches and
takes its lanes' slices of them. A run that goes on after a stop says how many samples were consumed (#3503).
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import torch


@attrs.frozen(kw_only=True)
class GlobalOrder:
    """Indices of every global microbatch, for a DataLoader's `batch_sampler`; endless, epoch after epoch.

    A microbatch may span two epochs: no sample is left out.

    Attributes:
        num_samples: size of the data set.
        micro_size: samples of a microbatch of the whole model, `plan.batch.micro_size`.
        seed: the order's; each epoch has another one. None: the data set's own order.
        consumed_samples: where to begin.
    """

    num_samples: int = attrs.field(validator=attrs.validators.gt(0))
    micro_size: int = attrs.field(validator=attrs.validators.gt(0))
    seed: int | None = 0
    consumed_samples: int = attrs.field(default=0, validator=attrs.validators.ge(0))

    def __iter__(self) -> Iterator[list[int]]:
        microbatch: list[int] = []
        for index in self._indices():
            microbatch.append(index)
            if len(microbatch) == self.micro_size:
                yield microbatch
                microbatch = []

    def _indices(self) -> Iterator[int]:
        epoch, first = divmod(self.consumed_samples, self.num_samples)
        while True:
            yield from self._epoch(epoch)[first:]
            epoch, first = epoch + 1, 0

    def _epoch(self, epoch: int) -> list[int]:
        if self.seed is None:
            return list(range(self.num_samples))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.num_samples, generator=generator).tolist()
