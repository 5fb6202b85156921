"""From transfers to messages: which rank sends which part of which transfer to which rank, in either direction.

A transfer says which samples go from lane to lane; the strategy says which ranks move them:

- leader: one message per transfer, from leader to leader.
- slices: the elements of a transfer are cut into equal parts, one per rank on either side, and a message exists
  wherever a sender's part and a receiver's overlap: the rule of transfers themselves. From 2 ranks to 3:

      senders    |   rank 0    |   rank 1    |      parts of 6: 0-3, 3-6
      receivers  | rank 4 | rank 5  | rank 6 |                  0-2, 2-4, 4-6
      messages   |  0-2   | 2-3|3-4 |  4-6   |

- gather: every receiving rank takes the whole transfer from one rank of the sending lane: from itself if it is one of
  them. The receivers are spread over the sending lane's ranks.

Backward, the two sides change places and the rule is the same. What the ranks of one lane do among themselves (the
broadcast or gather that ends a transfer) follows from the strategy and is not a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import lcm

from .bridges import Boundary, Edge
from .ir import Direction, Message, Strategy, Traffic, Transfer


def traffic_of(edge: Edge, rank: int, direction: Direction) -> Traffic:
    """The messages that `rank` sends and receives, in the order of the transfers."""
    ends = (edge.source, edge.transfers.of_source), (edge.destination, edge.transfers.of_destination)
    if direction is Direction.BACKWARD:
        ends = ends[::-1]
    leaving, reaching = (_of_lane(edge, rank, direction, side, transfers_of) for side, transfers_of in ends)
    sends = tuple(message for message in leaving if message.sender == rank)
    return Traffic(sends, tuple(message for message in reaching if message.receiver == rank))


def _of_lane(
    edge: Edge, rank: int, direction: Direction, side: Boundary, transfers_of: Callable[[int], Sequence[Transfer]]
) -> Iterator[Message]:
    """All messages of the lane that holds `rank` on one side; none if no lane does."""
    lane = side.lane_of(rank)
    for transfer in () if lane is None else transfers_of(lane):
        yield from messages_of(edge, transfer, direction)


def messages_of(edge: Edge, transfer: Transfer, direction: Direction) -> Iterator[Message]:
    """The messages of one transfer."""
    lanes = (edge.source, transfer.src_lane), (edge.destination, transfer.dst_lane)
    (sender, from_lane), (receiver, to_lane) = lanes if direction is Direction.FORWARD else lanes[::-1]
    if edge.strategy is Strategy.LEADER:
        yield Message(transfer, sender.leader(from_lane), receiver.leader(to_lane))
    elif edge.strategy is Strategy.SLICES:
        yield from _sliced(transfer, sender.ranks(from_lane), receiver.ranks(to_lane))
    else:
        yield from _gathered(transfer, sender, from_lane, receiver.ranks(to_lane))


def _sliced(transfer: Transfer, senders: tuple[int, ...], receivers: tuple[int, ...]) -> Iterator[Message]:
    of = lcm(len(senders), len(receivers))
    out, into = of // len(senders), of // len(receivers)
    for i, sender in enumerate(senders):
        for j in range(i * out // into, ((i + 1) * out - 1) // into + 1):
            first, last = max(i * out, j * into), min((i + 1) * out, (j + 1) * into)
            yield Message(transfer, sender, receivers[j], first, last, of, leads=first == j * into)


def _gathered(transfer: Transfer, side: Boundary, lane: int, receivers: tuple[int, ...]) -> Iterator[Message]:
    """Spread the receivers over the sending lane's ranks.

    A receiver that holds another lane of that side keeps its place in it, so that groups of ranks with equal tp coords
    hold both ends of every message.
    """
    senders = side.ranks(lane)
    for place, receiver in enumerate(receivers):
        own = side.lane_of(receiver)
        if own == lane:
            yield Message(transfer, receiver, receiver)
        else:
            at = place if own is None else side.ranks(own).index(receiver)
            yield Message(transfer, senders[at % len(senders)], receiver)
