"""The work of a pass over one stage, counted and not yet timed: matrix products, bytes, collectives.

Every count is that of one rank, for one microbatch of its lane.
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
    RING = "ring"  # every rank's block visits all others, one after the other
    SEND = "send"
    BROADCAST = "broadcast"


@frozen
class Collective:
    """Equal collectives over a rank's group of a kind.

    Attributes:
        kind: the kind of the group.
        op: how the buffer moves.
        num_bytes: size of the whole buffer: for a gather or a reduction, all shares together; for an all-to-all, what
            one rank hands to all ranks, itself included; for a ring, the block of one rank; else what is sent.
        count: the number of these collectives.
    """

    kind: GroupKind
    op: CollectiveOp
    num_bytes: float
    count: int = 1

    def moved(self, size: int) -> float:
        """Bytes that one rank of a group of `size` ranks puts on its link, for all `count` collectives together."""
        return self.count * self.num_bytes * share_moved(self.op, size)


def share_moved(op: CollectiveOp, size: int) -> float:
    """The bytes that each rank of a group sends over the bytes of the buffer, by the ring algorithms."""
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
    """`count` products of an (m, k) matrix with a (k, n) matrix, of 2-byte numbers."""

    m: float
    k: float
    n: float
    count: float = 1

    @property
    def flops(self) -> float:
        return 2 * self.m * self.k * self.n * self.count

    @property
    def num_bytes(self) -> float:
        """Bytes of both factors and the result, each read or written once."""
        return 2 * self.count * (self.m * self.k + self.k * self.n + self.m * self.n)

    @property
    def input_gradient(self) -> MatMul:
        """The product that gives the gradient of the first factor, the input."""
        return MatMul(self.m, self.n, self.k, self.count)

    @property
    def weight_gradient(self) -> MatMul:
        """The product that gives the gradient of the second factor, the weight."""
        return MatMul(self.k, self.m, self.n, self.count)


@frozen(kw_only=True)
class Work:
    """What one pass does.

    Attributes:
        matmuls: the matrix products.
        core_flops: FLOPs of flash attention's core, which is not a plain matrix product.
        num_bytes: bytes that all other kernels read and write.
        kernels: the number of those other kernels.
        collectives: the collectives that the pass waits for.
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
        """FLOPs of the matrix products and of the attention core."""
        return sum(matmul.flops for matmul in self.matmuls) + self.core_flops


@frozen(kw_only=True)
class StagePart:
    """A part of a stage: its layers, or an embedding, a head, an encoder's input, a projector.

    Attributes:
        name: what the part is.
        count: how often the part repeats: the number of layers; else 1.
        forward: the work of the forward pass over one of them.
        backward: the work of the backward pass over one of them, recomputation included.
        launches: passes over one of them (forward, recomputation, backward) whose kernels the CPU must launch in time.
    """

    name: str
    count: int
    forward: Work
    backward: Work
    launches: int = 0


@frozen(kw_only=True)
class StageWork:
    """The work of all parts of a stage, for one microbatch."""

    parts: tuple[StagePart, ...]

    @property
    def forward_flops(self) -> float:
        return sum(part.count * part.forward.flops for part in self.parts)

    @property
    def backward_flops(self) -> float:
        return sum(part.count * part.backward.flops for part in self.parts)
