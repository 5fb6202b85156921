"""The work of a pass over one stage, counted and not yet timed: products, bytes, collectives.

Everything here is of one rank and one microbatch of its lane.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property

import attrs

from ...base.frozen import frozen
from ...layout.ir import GroupKind

GIB = 2**30  # bytes


class CollectiveOp(StrEnum):
    """How a buffer moves among the ranks of a group."""

    ALL_REDUCE = "all-reduce"
    ALL_GATHER = "all-gather"
    REDUCE_SCATTER = "reduce-scatter"
    ALL_TO_ALL = "all-to-all"
    RING = "ring"  # every rank's block visits all others, one hop at a time
    SEND = "send"
    BROADCAST = "broadcast"


@frozen
class Collective:
    """`count` equal collectives over a rank's group of a kind.

    `num_bytes` is the whole buffer: the gathered or the reduced one, what a rank hands to the others and itself
    in an all-to-all, one rank's block of a ring, what is sent.
    """

    kind: GroupKind
    op: CollectiveOp
    num_bytes: float
    count: int = 1

    def moved(self, size: int) -> float:
        """Bytes that one rank of a group of `size` puts on its link, all `count` together."""
        return self.count * self.num_bytes * share_moved(self.op, size)


def share_moved(op: CollectiveOp, size: int) -> float:
    """Share of the buffer that each rank of a group sends, by the ring algorithms."""
    if size <= 1:
        return 0.0
    if op is CollectiveOp.ALL_REDUCE:
        return 2 * (size - 1) / size
    if op is CollectiveOp.RING:
        return float(size - 1)
    if op in (CollectiveOp.SEND, CollectiveOp.BROADCAST):
        return 1.0
    return (size - 1) / size


# A fit hashes and compares products millions of times, for which attrs' own methods are faster than shared ones.
@attrs.frozen(cache_hash=True)
class MatMul:
    """`count` matrix products of (m, k) by (k, n) in 2-byte numbers."""

    m: float
    k: float
    n: float
    count: float = 1

    @property
    def flops(self) -> float:
        return 2 * self.m * self.k * self.n * self.count

    @property
    def num_bytes(self) -> float:
        """Read and written once."""
        return 2 * self.count * (self.m * self.k + self.k * self.n + self.m * self.n)

    @property
    def input_gradient(self) -> MatMul:
        return MatMul(self.m, self.n, self.k, self.count)

    @property
    def weight_gradient(self) -> MatMul:
        return MatMul(self.k, self.m, self.n, self.count)


@frozen(kw_only=True)
class Work:
    """What one pass does.

    Attributes:
        products: matrix products.
        core_flops: of flash attention, which is no plain product.
        num_bytes: read and written by everything else.
        kernels: how many kernels do that.
        messages: collectives that the pass waits for.
    """

    matmuls: tuple[MatMul, ...] = ()
    core_flops: float = 0.0
    num_bytes: float = 0.0
    kernels: int = 0
    collectives: tuple[Collective, ...] = ()

    def __add__(self, other: Work) -> Work:
        return Work(
            matmuls=self.matmuls + other.matmuls,
            core_flops=self.core_flops + other.core_flops,
            num_bytes=self.num_bytes + other.num_bytes,
            kernels=self.kernels + other.kernels,
            collectives=self.collectives + other.collectives,
        )

    @cached_property
    def flops(self) -> float:
        return sum(product.flops for product in self.matmuls) + self.core_flops


@frozen(kw_only=True)
class StagePart:
    """`count` equal pieces of a stage: its layers, or one embedding, head, encoder input, projector.

    `launches` counts the passes over a layer, forward, backward and again, whose kernels a CPU must launch in time.
    """

    name: str
    count: int
    forward: Work
    backward: Work
    launches: int = 0


@frozen(kw_only=True)
class StageWork:
    """The parts of a stage, and the FLOPs of all of them."""

    parts: tuple[StagePart, ...]

    @property
    def forward_flops(self) -> float:
        return sum(part.count * part.forward.flops for part in self.parts)

    @property
    def backward_flops(self) -> float:
        return sum(part.count * part.backward.flops for part in self.parts)
