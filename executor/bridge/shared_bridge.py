"""An edge between modules that share ranks: inside one forward pass, from the source's layout to the destination's.

The same messages and rows as between modules apart; what a rank holds itself it keeps. The way back is autograd's: a
rank takes part in it wherever it took part in the way there. Several exchanges of one pass are chained by an anchor,
a number that each takes from the one before it, so that their ways back run in the reverse order on every rank.
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
    """One rank's end, or ends, of an edge."""

    def __init__(self, groups: ProcessGroups, src: str, dst: str, dtype: torch.dtype, device: torch.device) -> None:
        plan, role, rank, edge = groups.plan, groups.view.role, groups.rank, groups.plan.bridge(src, dst)
        self.src, self.dst = src, dst
        self.is_source, self.is_destination = role.is_last_stage(src), role.is_first_stage(dst)
        self.link = P2P(edge.name, groups)
        self._device, self._pool = device, Pool(dtype, device)
        self._source = Endpoint(groups, src, dst, dtype, is_source=True) if self.is_source else None
        self._destination = Endpoint(groups, src, dst, dtype, is_source=False) if self.is_destination else None
        traffic = {direction: plan.traffic(src, dst, rank, direction) for direction in Direction}
        receivers = {FORWARD: self._destination, BACKWARD: self._source}
        self._sending = {direction: Sending(found.sends, direction) for direction, found in traffic.items()}
        self._receiving = {
            direction: Receiving(edge, traffic[direction].receives, direction, side.lane, rank, self._pool)
            for direction, side in receivers.items()
            if side is not None
        }
        num_samples = self._destination.lane.num_samples if self._destination else 0
        self._fixed = fixed_shape(plan.module(src), plan.module(dst), num_samples)
        self._is_identity = self._moves_nothing(traffic)

    def _moves_nothing(self, traffic: dict[Direction, Traffic]) -> bool:
        """Whether the rank's lanes on both sides are the same samples on the same ranks, whole on each."""
        sides = (self._source, self._destination)
        if not all(side is not None and side.part[1] == 1 for side in sides):
            return False
        messages = [message for found in traffic.values() for message in (*found.sends, *found.receives)]
        stays = all(message.sender == message.receiver for message in messages)
        return stays and len({side.lane.num_samples for side in sides if side}) == len(traffic[FORWARD].receives) == 1

    def exchange(
        self, value: torch.Tensor | None, anchor: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The destination lane's tensor from the source lanes'; collective over the edge's ranks.

        Args:
            value: the source's output; None on a rank that is not in it.
            anchor: of the exchange before this one in the same pass.

        Returns:
            The tensor, with the tokens of each sample noted on it; None on a rank that is not in the destination. And
            this exchange's anchor, 0: where a rank has no tensor, going back from it brings the gradient of `value`.
        """
        if anchor is None:
            anchor = torch.zeros((), device=self._device, requires_grad=torch.is_grad_enabled())
        if self._is_identity:
            return value, anchor
        arrived: list[PackedShape] = []
        result, anchor = _Exchange.apply(self, anchor, value, arrived)
        if result is not None:
            setattr(result, SIZES, list(arrived[0].sizes))
        return result, anchor

    def forward(self, value: torch.Tensor | None) -> tuple[torch.Tensor | None, InFlight | None, InFlight | None]:
        """The destination's tensor, and what the way back needs of the source and of the destination."""
        flat, left = self._source.rows(value) if self._source and value is not None else (None, None)
        sent = left.shape if left else None
        shape = self._arriving(sent)
        rows = self._carry(FORWARD, flat, sent, shape)
        if rows is None or shape is None or self._destination is None:
            return None, left, None
        held = InFlight(shape)
        return self._destination.value(rows, held), left, held

    def _arriving(self, sent: PackedShape | None) -> PackedShape | None:
        """The shape of what will come: fixed, or from boundaries that all ranks exchange."""
        receiving = self._receiving.get(FORWARD)
        if self._fixed is None:
            mail = self._sending[FORWARD].boundaries(sent, self._device) if sent else []
            self.link.post(mail + (receiving.boundaries() if receiving else []), FORWARD).wait()
        return (self._fixed or receiving.read(sent)) if receiving else None

    def backward(
        self, gradient: torch.Tensor | None, left: InFlight | None, held: InFlight | None
    ) -> torch.Tensor | None:
        """The gradient of the source's output, from the destination's."""
        flat = self._destination.gradient(gradient) if self._destination and gradient is not None else None
        rows = self._carry(BACKWARD, flat, held.shape if held else None, left.shape if left else None)
        return self._source.value(rows, left) if rows is not None and self._source and left else None

    def _carry(
        self, way: Direction, flat: torch.Tensor | None, shape: PackedShape | None, arriving: PackedShape | None
    ) -> torch.Tensor | None:
        """Send `flat` of `shape`, if any; receive rows of the shape `arriving`, if any."""
        sending, receiving = self._sending[way], self._receiving.get(way)
        sends = sending.parts(flat, shape) if flat is not None and shape else []
        rows, receives = None, []
        if receiving and arriving:
            rows = self._pool.take(arriving.num_rows * arriving.hidden)
            receives = receiving.parts(arriving, rows)
        self.link.num_bytes_sent += num_bytes_of(sends)
        self.link.post([*sends, *receives], way).wait()
        if receiving and arriving and rows is not None and flat is not None and shape:
            receiving.keep(rows, arriving, sending, flat, shape)
        return rows


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, bridge: SharedBridge, anchor: torch.Tensor, value: torch.Tensor | None, arrived: list[PackedShape]
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        result, ctx.left, ctx.held = bridge.forward(value)
        ctx.bridge = bridge
        arrived += [ctx.held.shape] if ctx.held else []
        return result, torch.zeros_like(anchor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor, torch.Tensor | None, None]:
        gradient = gradients[0] if ctx.bridge.is_destination else None
        return None, torch.zeros_like(gradients[1]), ctx.bridge.backward(gradient, ctx.left, ctx.held), None
