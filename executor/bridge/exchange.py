"""One direction of an edge on one rank: its messages as a sender, and as a receiver with what ends a transfer.

Sending needs the lane's flat rows and their shape. Receiving goes in steps, so that nothing waits before everything is
posted: boundaries (only where they are not known), then parts, then the lane's own broadcast or gather.
"""

from __future__ import annotations

import attrs
import torch
import torch.distributed as dist

from planner import Bridge, Direction, Message, Strategy, Transfer

from .buffer_pool import Pool
from .p2p import P2PTensor, inside
from .packed import PackedShape


@attrs.frozen(eq=False)
class Lane:
    """The boundary ranks of a rank's lane on one side of an edge.

    Attributes:
        num_samples: samples of a microbatch in the lane.
        group: of these ranks; None where the plan needs none (modules on the same ranks).
    """

    ranks: tuple[int, ...]
    leader: int
    num_samples: int
    group: dist.ProcessGroup | None


@attrs.frozen(eq=False)
class Sending:
    """What one rank sends in one direction."""

    messages: tuple[Message, ...]
    direction: Direction

    def boundaries(self, shape: PackedShape, device: torch.device) -> list[P2PTensor]:
        """The hidden size and the tokens of each sample, once to every receiver of a transfer."""
        found = []
        for message in self._to_others:
            if message.leads:
                start = start_of(message.transfer, self.direction, sends=True)
                sizes = shape.sizes[start : start + message.transfer.num_samples]
                found.append(
                    P2PTensor(torch.tensor([shape.hidden, *sizes], device=device), message.receiver, sends=True)
                )
        return found

    def parts(self, flat: torch.Tensor, shape: PackedShape) -> list[P2PTensor]:
        """The parts of the lane's rows, without copies. Empty ones are not sent."""
        found = [
            P2PTensor(self.part(flat, shape, message), message.receiver, sends=True) for message in self._to_others
        ]
        return [mail for mail in found if mail.tensor.numel()]

    def part(self, flat: torch.Tensor, shape: PackedShape, message: Message) -> torch.Tensor:
        start = start_of(message.transfer, self.direction, sends=True)
        rows = flat[shape.elements(start, message.transfer.num_samples)]
        return rows[message.elements(rows.numel())]

    @property
    def _to_others(self) -> list[Message]:
        return [message for message in self.messages if message.sender != message.receiver]


class Receiving:
    """What one rank receives in one direction, into its lane's flat rows."""

    def __init__(
        self, bridge: Bridge, messages: tuple[Message, ...], direction: Direction, lane: Lane, rank: int, pool: Pool
    ) -> None:
        self._name, self._strategy, self._messages = bridge.name, bridge.strategy, messages
        self._direction, self._lane, self._pool = direction, lane, pool
        self._place = lane.ranks.index(rank)
        self._boundaries = {
            message: torch.empty(1 + message.transfer.num_samples, dtype=torch.int64, device=pool.device)
            for message in messages
            if message.leads and message.sender != message.receiver
        }
        self._shared = torch.empty(1 + lane.num_samples, dtype=torch.int64, device=pool.device)
        self._scratch: torch.Tensor | None = None

    def boundaries(self) -> list[P2PTensor]:
        """Buffers for what `Sending.boundaries` sends; kept from one microbatch to the next."""
        return [P2PTensor(buffer, message.sender) for message, buffer in self._boundaries.items()]

    def read(self, own: PackedShape | None = None) -> PackedShape:
        """The shape of the lane's rows, from boundaries that have come. `own`: of what the rank sends itself."""
        values = [0] * (1 + self._lane.num_samples)
        for message in self._messages:
            if not message.leads:
                continue
            start = start_of(message.transfer, self._direction, sends=False)
            if message in self._boundaries:
                values[0], *sizes = self._boundaries[message].tolist()
            else:
                assert own is not None, "samples from the rank itself have its own shape"
                at = start_of(message.transfer, self._direction, sends=True)
                values[0], sizes = own.hidden, list(own.sizes[at : at + message.transfer.num_samples])
            values[1 + start : 1 + start + len(sizes)] = sizes
        if self._strategy is Strategy.LEADER and len(self._lane.ranks) > 1:
            values = self._told_by_leader(values)
        return PackedShape(tuple(values[1:]), values[0])

    def _told_by_leader(self, values: list[int]) -> list[int]:
        if self._messages:
            self._shared.copy_(torch.tensor(values))
        self._in_lane(dist.broadcast, self._shared, src=self._lane.leader)
        told: list[int] = self._shared.tolist()
        return told

    def parts(self, shape: PackedShape, flat: torch.Tensor) -> list[P2PTensor]:
        """Buffers for the parts: inside `flat`, the lane's rows, or in a slice of the rank's own."""
        if self._strategy is Strategy.SLICES:
            return self._slice_buffers(shape)
        found = []
        for message in self._messages:
            buffer = flat[self._elements(message.transfer, shape)]
            if message.sender != message.receiver and buffer.numel():
                found.append(P2PTensor(buffer, message.sender))
        return found

    def complete(self, shape: PackedShape, flat: torch.Tensor) -> None:
        """End the transfers inside the lane, when the parts have come."""
        if len(self._lane.ranks) == 1 or not flat.numel():
            return
        if self._strategy is Strategy.LEADER:
            self._in_lane(dist.broadcast, flat, src=self._lane.leader)
        elif self._strategy is Strategy.SLICES:
            self._gather_slices(shape, flat)

    def keep(
        self, flat: torch.Tensor, shape: PackedShape, sending: Sending, sent: torch.Tensor, of: PackedShape
    ) -> None:
        """Copy the samples that the rank has itself: those of messages to itself."""
        for message in self._messages:
            if message.sender == message.receiver:
                flat[self._elements(message.transfer, shape)].copy_(sending.part(sent, of, message))

    # ---- slices: per transfer every rank of the lane has an equal part, the last ones perhaps short

    def _slice_lengths(self, shape: PackedShape) -> list[tuple[Transfer, int]]:
        """The transfers to the lane, with the length of a slice of each."""
        found: dict[Transfer, int] = {}
        for message in self._messages:
            elements = self._elements(message.transfer, shape)
            per_part = -(-(elements.stop - elements.start) // message.of)
            found[message.transfer] = per_part * (message.of // len(self._lane.ranks))
        return list(found.items())

    def _slice_buffers(self, shape: PackedShape) -> list[P2PTensor]:
        lengths = self._slice_lengths(shape)
        self._scratch = self._pool.take(sum(length for _, length in lengths) * (1 + len(self._lane.ranks)))
        own = self._scratch
        offset, offsets = 0, {}
        for transfer, length in lengths:
            offsets[transfer] = offset - self._place * length  # where element 0 of the transfer would lie
            offset += length
        found = []
        for message in self._messages:
            elements = self._elements(message.transfer, shape)
            part = message.elements(elements.stop - elements.start)
            if part.stop > part.start:
                at = offsets[message.transfer]
                found.append(P2PTensor(own[at + part.start : at + part.stop], message.sender))
        return found

    def _gather_slices(self, shape: PackedShape, flat: torch.Tensor) -> None:
        lengths = self._slice_lengths(shape)
        total, num_ranks = sum(length for _, length in lengths), len(self._lane.ranks)
        scratch = self._scratch
        assert scratch is not None, "parts have been asked for"
        own, gathered = scratch[:total], scratch[total:]
        self._in_lane(dist.all_gather_into_tensor, gathered, own)
        by_rank, offset = gathered.view(num_ranks, total), 0
        for transfer, length in lengths:
            whole = by_rank[:, offset : offset + length].reshape(-1)
            into = flat[self._elements(transfer, shape)]
            into.copy_(whole[: into.numel()])
            offset += length
        self._scratch = None

    # ----

    def _elements(self, transfer: Transfer, shape: PackedShape) -> slice:
        return shape.elements(start_of(transfer, self._direction, sends=False), transfer.num_samples)

    def _in_lane(self, operation: object, *args: object, **kwargs: object) -> None:
        inside(self._name, self._lane.ranks, operation, *args, group=self._lane.group, **kwargs)  # type: ignore[arg-type]


def start_of(transfer: Transfer, direction: Direction, *, sends: bool) -> int:
    """Offset of a transfer's first sample inside the lane that sends it, or that receives it, in a direction."""
    at_source = sends == (direction is Direction.FORWARD)
    return transfer.src_start if at_source else transfer.dst_start
