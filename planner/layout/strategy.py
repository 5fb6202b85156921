"""The rule that says how the bytes of an edge move.

- gather: the two modules share ranks. Every rank that needs a block takes it from one rank that has it.
- leader: one rank of each source lane sends; one rank of each destination lane receives, and broadcasts in its lane.
- slices: every rank of the source lane sends its own slice, and the destination lane gathers them, so that all
  network cards of a lane carry its bytes. That costs one more collective, so it is chosen only if it can pay: the edge
  crosses nodes, both sides have at least two ranks per lane, and a transfer has at least SLICES_MIN_BYTES.
"""

from __future__ import annotations

from .ir import Strategy

# Two cards of 50 GB/s carry 2 MiB in 21 us and one in 42: what is saved is one collective's latency, 16-26 us.
SLICES_MIN_BYTES = 2 * 2**20


def choose(
    *, shares_ranks: bool, crosses_nodes: bool, num_senders: int, num_receivers: int, num_bytes: int | None
) -> Strategy:
    """The strategy of one edge.

    Args:
        shares_ranks: whether the two modules share ranks.
        crosses_nodes: whether any transfer leaves its node; False if gpus_per_node is not known.
        num_senders, num_receivers: ranks (tp * cp) per lane of the two boundary stages.
        num_bytes: size of the largest transfer at the spec's dtype; None if the spec gives no sizes.
    """
    if shares_ranks:
        return Strategy.GATHER
    pays = crosses_nodes and num_bytes is not None and num_bytes >= SLICES_MIN_BYTES
    return Strategy.SLICES if pays and min(num_senders, num_receivers) > 1 else Strategy.LEADER
