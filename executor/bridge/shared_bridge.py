"""An edge between modules that share ranks: inside one forward pass, from the source's layout to the destination's.

The messages and rows are those of a bridge between disjoint modules, except that a rank keeps what it sends to itself.
Backward is autograd's: a rank takes part in it if it took part in forward. The exchanges of one pass are chained by an
anchor, a number that each exchange takes from the one before it, so that on every rank their backwards run in reverse
order.
"""

from __future__ import annotations

from typing import Any

import torch

from planner import Direction, Traffic

from ..groups.groups import ProcessGroups
from .bridge import fixed_shape
from .buffer_pool import Pool
from .endpoint import Endpoint, InFlight
from .exchange import Receiving, Sending
from .p2p import P2P, num_bytes_of
from .packed import SIZES, PackedShape

FORWARD, BACKWARD = Direction


class SharedBridge:
    """One rank's end of an edge, or both of its ends."""

    def __init__(self, groups: ProcessGroups, src: str, dst: str, dtype: torch.dtype, device: torch.device) -> None:
        plan, role, rank, edge = groups.plan, groups.view.role, groups.rank, groups.plan.bridge(src, dst)
        self.src, self.dst = src, dst
        self.is_source, self.is_destination = role.is_last_stage(src), role.is_first_stage(dst)
        self.p2p = P2P(edge.name, groups)
        self._device, self._pool = device, Pool(dtype, device)
        self._source = Endpoint(groups, src, dst, dtype, is_source=True) if self.is_source else None
        self._destination = Endpoint(groups, src, dst, dtype, is_source=False) if self.is_destination else None
        traffic = {direction: plan.traffic(src, dst, rank, direction) for direction in Direction}
        receivers = {FORWARD: self._destination, BACKWARD: self._source}
        self._sending = {direction: Sending(found.sends, direction) for direction, found in traffic.items()}
        self._receiving = {
            direction: Receiving(edge, traffic[direction].receives, direction, endpoint.lane, rank, self._pool)
            for direction, endpoint in receivers.items()
            if endpoint is not None
        }
        num_samples = self._destination.lane.num_samples if self._destination else 0
        self._fixed = fixed_shape(plan.module(src), plan.module(dst), num_samples)
        self._is_identity = self._moves_nothing(traffic)

    def _moves_nothing(self, traffic: dict[Direction, Traffic]) -> bool:
        """Whether the rank's lanes at both ends hold the same samples on the same ranks, each rank all of them."""
        if (
            self._source is None
            or self._destination is None
            or not self._source.cp_size == self._destination.cp_size == 1
        ):
            return False
        messages = [message for found in traffic.values() for message in (*found.sends, *found.receives)]
        if any(message.sender != message.receiver for message in messages):
            return False
        has_equal_lanes = self._source.lane.num_samples == self._destination.lane.num_samples
        return has_equal_lanes and len(traffic[FORWARD].receives) == 1

    def exchange(
        self, value: torch.Tensor | None, anchor: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The destination lane's tensor, made from those of the source's lanes. Collective over the edge's ranks.

        Args:
            value: the source's output; None on a rank that does not hold the source.
            anchor: the anchor of the exchange before this one in the same pass; None for the first.

        Returns:
            The tensor, with the tokens of each sample noted on it under SIZES, or None on a rank that does not hold
            the destination; and the anchor of this exchange, which is 0. On a rank that gets no tensor, a backward
            pass from the anchor brings the gradient of `value`.
        """
        if anchor is None:
            anchor = torch.zeros((), device=self._device, requires_grad=torch.is_grad_enabled())
        if self._is_identity:
            return value, anchor
        shapes: list[PackedShape] = []
        result, anchor = _Exchange.apply(self, anchor, value, shapes)
        if result is not None:
            setattr(result, SIZES, list(shapes[0].sizes))
        return result, anchor

    def forward(self, value: torch.Tensor | None) -> tuple[torch.Tensor | None, InFlight | None, InFlight | None]:
        """Carry activations from the source to the destination, outside autograd.

        Returns:
            The destination's tensor, and what `backward` will need at the source and at the destination; each is None
            if the rank does not hold that end.
        """
        flat, sent = self._source.rows(value) if self._source and value is not None else (None, None)
        sent_shape = sent.shape if sent else None
        shape = self._receive_shape(sent_shape)
        rows = self._carry(FORWARD, flat, sent_shape, shape)
        if rows is None or shape is None or self._destination is None:
            return None, sent, None
        received = InFlight(shape)
        return self._destination.value(rows, received), sent, received

    def _receive_shape(self, sent: PackedShape | None) -> PackedShape | None:
        """The shape of what will come: fixed by the plan, or from the headers that all ranks exchange."""
        receiving = self._receiving.get(FORWARD)
        if self._fixed is None:
            headers = self._sending[FORWARD].headers(sent, self._device) if sent else []
            self.p2p.post(headers + (receiving.header_buffers() if receiving else []), FORWARD).wait()
        return (self._fixed or receiving.read_headers(sent)) if receiving else None

    def backward(
        self, gradient: torch.Tensor | None, sent: InFlight | None, received: InFlight | None
    ) -> torch.Tensor | None:
        """Carry gradients from the destination to the source.

        Args:
            gradient: the gradient of the destination's tensor; None on a rank that does not hold the destination.
            sent: what `forward` returned for the source.
            received: what `forward` returned for the destination.

        Returns:
            The gradient of the source's output; None on a rank that does not hold the source.
        """
        flat = self._destination.gradient(gradient) if self._destination and gradient is not None else None
        rows = self._carry(BACKWARD, flat, received.shape if received else None, sent.shape if sent else None)
        return self._source.value(rows, sent) if rows is not None and self._source and sent else None

    def _carry(
        self, direction: Direction, flat: torch.Tensor | None, shape: PackedShape | None, expected: PackedShape | None
    ) -> torch.Tensor | None:
        """Send `flat`, of `shape`, if there is any; receive and return rows of the shape `expected`, if any."""
        sending, receiving = self._sending[direction], self._receiving.get(direction)
        sends = sending.payloads(flat, shape) if flat is not None and shape else []
        rows, receives = None, []
        if receiving and expected:
            rows = self._pool.take(expected.num_elements)
            receives = receiving.buffers(expected, rows)
        self.p2p.num_bytes_sent += num_bytes_of(sends)
        self.p2p.post([*sends, *receives], direction).wait()
        if receiving and expected and rows is not None and flat is not None and shape:
            receiving.copy_own(rows, expected, sending, flat, shape)
        return rows


class _Exchange(torch.autograd.Function):
    """A bridge's `forward` and `backward` as one operation of autograd."""

    @staticmethod
    def forward(
        ctx: Any, bridge: SharedBridge, anchor: torch.Tensor, value: torch.Tensor | None, shapes: list[PackedShape]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        result, ctx.sent, ctx.received = bridge.forward(value)
        ctx.bridge = bridge
        shapes += [ctx.received.shape] if ctx.received else []
        return result, torch.zeros_like(anchor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor | None, None]:
        gradient = gradients[0] if ctx.bridge.is_destination else None
        return None, torch.zeros_like(gradients[1]), ctx.bridge.backward(gradient, ctx.sent, ctx.received), None
