"""One order of samples for the whole model.

Modules that sample separately pair the tokens of one sample with the features of another (Megatron-Bridge #2956,
#5525). Here the order depends on a seed and on the number of samples consumed, never on the rank: every rank draws the
same microbatches and takes its lanes' slices of them. A run that continues after a stop passes the number of samples
that were consumed (#3503).
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import torch


@attrs.frozen(kw_only=True)
class GlobalOrder:
    """The indices of each global microbatch, for a DataLoader's `batch_sampler`; endless, epoch after epoch.

    A microbatch may contain the end of one epoch and the start of the next, so that no sample is left out.

    Attributes:
        num_samples: number of samples in the data set.
        micro_size: samples per microbatch of the whole model, `plan.batch.micro_size`.
        seed: seed of the order, which differs from epoch to epoch; None keeps the data set's own order.
        consumed_samples: number of samples consumed so far, from which the order continues.
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
