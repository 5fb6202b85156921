"""One direction of an edge on one rank: what the rank sends, and what it receives and how its lane then completes it.

Sending needs the lane's flat rows and their shape. Receiving goes in steps, so that everything is posted before
anything is waited for: first headers (only if the plan does not fix the shape), then payloads, then the broadcast or
gather inside the lane that ends a transfer.

A *header* is the hidden size and the tokens of each sample of a transfer. A *payload* is the rows of one message: a
whole transfer, or with the strategy `slices` some of its elements.
"""

from __future__ import annotations

import attrs
import torch
import torch.distributed as dist

from planner import Bridge, Direction, Message, Strategy, Transfer

from .buffer_pool import Pool
from .p2p import P2PTensor, in_lane
from .packed import PackedShape


@attrs.frozen(eq=False)
class Lane:
    """The boundary ranks of a rank's lane at one end of an edge.

    Attributes:
        ranks: global ranks, ascending.
        leader: which of these ranks the plan's transfers name.
        num_samples: samples of a microbatch in the lane.
        group: the process group of these ranks; None if the plan needs none (modules on the same ranks).
    """

    ranks: tuple[int, ...]
    leader: int
    num_samples: int
    group: dist.ProcessGroup | None


@attrs.frozen(eq=False)
class Sending:
    """What one rank sends in one direction.

    Attributes:
        messages: the plan's messages that the rank sends, those to itself included.
    """

    messages: tuple[Message, ...]
    direction: Direction

    def headers(self, shape: PackedShape, device: torch.device) -> list[P2PTensor]:
        """The header of each transfer, once to every rank that receives some of it."""
        found = []
        for message in self._to_others:
            if message.leads:
                start = start_of(message.transfer, self.direction, sends=True)
                sizes = shape.sizes[start : start + message.transfer.num_samples]
                header = torch.tensor([shape.hidden, *sizes], device=device)
                found.append(P2PTensor(header, message.receiver, sends=True))
        return found

    def payloads(self, flat: torch.Tensor, shape: PackedShape) -> list[P2PTensor]:
        """The payload of each message to another rank, as views of the lane's rows. Empty ones are not sent."""
        found = [
            P2PTensor(self.payload(flat, shape, message), message.receiver, sends=True) for message in self._to_others
        ]
        return [item for item in found if item.tensor.numel()]

    def payload(self, flat: torch.Tensor, shape: PackedShape, message: Message) -> torch.Tensor:
        """The elements of the lane's flat rows that a message carries; a view."""
        start = start_of(message.transfer, self.direction, sends=True)
        rows = flat[shape.elements(start, message.transfer.num_samples)]
        return rows[message.elements(rows.numel())]

    @property
    def _to_others(self) -> list[Message]:
        return [message for message in self.messages if message.sender != message.receiver]


class Receiving:
    """What one rank receives in one direction, into the flat rows of its lane."""

    def __init__(
        self, bridge: Bridge, messages: tuple[Message, ...], direction: Direction, lane: Lane, rank: int, pool: Pool
    ) -> None:
        self._name, self._strategy, self._messages = bridge.name, bridge.strategy, messages
        self._direction, self._lane, self._pool = direction, lane, pool
        self._index_in_lane = lane.ranks.index(rank)
        self._headers = {
            message: torch.empty(1 + message.transfer.num_samples, dtype=torch.int64, device=pool.device)
            for message in messages
            if message.leads and message.sender != message.receiver
        }
        self._header_of_lane = torch.empty(1 + lane.num_samples, dtype=torch.int64, device=pool.device)
        self._scratch: torch.Tensor | None = None

    def header_buffers(self) -> list[P2PTensor]:
        """Buffers for what `Sending.headers` sends; kept from one microbatch to the next."""
        return [P2PTensor(buffer, message.sender) for message, buffer in self._headers.items()]

    def read_headers(self, own: PackedShape | None = None) -> PackedShape:
        """The shape of the lane's rows, once the headers have come. Collective over the lane with the leader strategy.

        Args:
            own: shape of what the rank sends to itself; needed if it does.
        """
        values = [0] * (1 + self._lane.num_samples)
        for message in self._messages:
            if not message.leads:
                continue
            start = start_of(message.transfer, self._direction, sends=False)
            if message in self._headers:
                values[0], *sizes = self._headers[message].tolist()
            else:
                assert own is not None, "samples from the rank itself have its own shape"
                first = start_of(message.transfer, self._direction, sends=True)
                values[0], sizes = own.hidden, list(own.sizes[first : first + message.transfer.num_samples])
            values[1 + start : 1 + start + len(sizes)] = sizes
        if self._strategy is Strategy.LEADER and len(self._lane.ranks) > 1:
            values = self._from_leader(values)
        return PackedShape(tuple(values[1:]), values[0])

    def _from_leader(self, values: list[int]) -> list[int]:
        """The leader's values, on every rank of the lane; the others have received no messages."""
        if self._messages:
            self._header_of_lane.copy_(torch.tensor(values))
        self._in_lane(dist.broadcast, self._header_of_lane, src=self._lane.leader)
        received: list[int] = self._header_of_lane.tolist()
        return received

    def buffers(self, shape: PackedShape, flat: torch.Tensor) -> list[P2PTensor]:
        """Buffers for the payloads: views of `flat`, the lane's rows; with the strategy `slices`, scratch memory."""
        if self._strategy is Strategy.SLICES:
            return self._slice_buffers(shape)
        found = []
        for message in self._messages:
            buffer = flat[self._elements(message.transfer, shape)]
            if message.sender != message.receiver and buffer.numel():
                found.append(P2PTensor(buffer, message.sender))
        return found

    def complete(self, shape: PackedShape, flat: torch.Tensor) -> None:
        """End the transfers inside the lane, once the payloads have come: afterwards every rank has all of `flat`."""
        if len(self._lane.ranks) == 1 or not flat.numel():
            return
        if self._strategy is Strategy.LEADER:
            self._in_lane(dist.broadcast, flat, src=self._lane.leader)
        elif self._strategy is Strategy.SLICES:
            self._gather_slices(shape, flat)

    def copy_own(
        self, flat: torch.Tensor, shape: PackedShape, sending: Sending, sent: torch.Tensor, sent_shape: PackedShape
    ) -> None:
        """Copy from `sent` into `flat` what the rank sends to itself."""
        for message in self._messages:
            if message.sender == message.receiver:
                own = sending.payload(sent, sent_shape, message)
                flat[self._elements(message.transfer, shape)].copy_(own)

    # ---- the strategy `slices`: each rank of the lane receives an equal slice of each transfer; the last ones may be
    # ---- shorter, and are padded for the gather

    def _slice_lengths(self, shape: PackedShape) -> list[tuple[Transfer, int]]:
        """The transfers to the lane, each with the elements of one slice of it."""
        found: dict[Transfer, int] = {}
        for message in self._messages:
            elements = self._elements(message.transfer, shape)
            per_piece = -(-(elements.stop - elements.start) // message.of)
            found[message.transfer] = per_piece * (message.of // len(self._lane.ranks))
        return list(found.items())

    def _slice_buffers(self, shape: PackedShape) -> list[P2PTensor]:
        lengths = self._slice_lengths(shape)
        self._scratch = self._pool.take(sum(length for _, length in lengths) * (1 + len(self._lane.ranks)))
        own = self._scratch
        offset, origins = 0, {}
        for transfer, length in lengths:
            origins[transfer] = offset - self._index_in_lane * length  # where element 0 of the transfer would lie
            offset += length
        found = []
        for message in self._messages:
            elements = self._elements(message.transfer, shape)
            wanted = message.elements(elements.stop - elements.start)
            if wanted.stop > wanted.start:
                origin = origins[message.transfer]
                found.append(P2PTensor(own[origin + wanted.start : origin + wanted.stop], message.sender))
        return found

    def _gather_slices(self, shape: PackedShape, flat: torch.Tensor) -> None:
        lengths = self._slice_lengths(shape)
        total, num_ranks = sum(length for _, length in lengths), len(self._lane.ranks)
        scratch = self._scratch
        assert scratch is not None, "the buffers have been asked for"
        own, gathered = scratch[:total], scratch[total:]
        self._in_lane(dist.all_gather_into_tensor, gathered, own)
        by_rank, offset = gathered.view(num_ranks, total), 0
        for transfer, length in lengths:
            whole = by_rank[:, offset : offset + length].reshape(-1)
            target = flat[self._elements(transfer, shape)]
            target.copy_(whole[: target.numel()])
            offset += length
        self._scratch = None

    # ----

    def _elements(self, transfer: Transfer, shape: PackedShape) -> slice:
        return shape.elements(start_of(transfer, self._direction, sends=False), transfer.num_samples)

    def _in_lane(self, operation: object, *args: object, **kwargs: object) -> None:
        in_lane(self._name, self._lane.ranks, operation, *args, group=self._lane.group, **kwargs)  # type: ignore[arg-type]


def start_of(transfer: Transfer, direction: Direction, *, sends: bool) -> int:
    """Offset of a transfer's first sample inside the lane that sends it in `direction`, or that receives it."""
    at_source = sends == (direction is Direction.FORWARD)
    return transfer.src_start if at_source else transfer.dst_start
