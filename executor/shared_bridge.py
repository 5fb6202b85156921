"""An edge between modules that share ranks: inside one forward pass, from the source's layout to the destination's.

The same messages and rows as between modules apart; what a rank holds itself it keeps. On a rank of the source only
the result stands for what was sent, so that its backward pass takes part in the gradients' way back.
"""

from __future__ import annotations

from typing import Any

import torch

from planner import Direction, Traffic

from .bridge import fixed_shape
from .buffers import Pool
from .crossing import Receiving, Sending
from .groups import ProcessGroups
from .link import Link
from .rows import SIZES, Shape
from .sides import Held, Side


class SharedBridge:
    """One rank's end, or ends, of an edge."""

    def __init__(self, groups: ProcessGroups, src: str, dst: str, dtype: torch.dtype, device: torch.device) -> None:
        plan, role, rank = groups.plan, groups.view.role, groups.rank
        self.src, self.dst = src, dst
        self._device, self._pool = device, Pool(dtype, device)
        is_source, is_destination = role.is_last_stage(src), role.is_first_stage(dst)
        self._source = Side(groups, src, dst, dtype, is_source=True) if is_source else None
        self._destination = Side(groups, src, dst, dtype, is_source=False) if is_destination else None
        traffic = [plan.traffic(src, dst, rank, direction) for direction in Direction]
        self._sending = [Sending(t.sends, direction) for t, direction in zip(traffic, Direction, strict=True)]
        self._receiving = [
            Receiving(plan.bridge(src, dst), t.receives, direction, side.lane, rank, self._pool) if side else None
            for t, direction, side in zip(traffic, Direction, (self._destination, self._source), strict=True)
        ]
        name = plan.bridge(src, dst).name
        self.link = Link(name, groups.with_peer(name))
        num_samples = self._destination.lane.num_samples if self._destination else 0
        self._fixed = fixed_shape(plan.module(src), plan.module(dst), num_samples)
        self._is_identity = self._moves_nothing(traffic)
        self._arrived: Shape | None = None

    def _moves_nothing(self, traffic: list[Traffic]) -> bool:
        """Whether the rank's lanes on both sides are the same samples on the same ranks, whole on each."""
        sides = (self._source, self._destination)
        if not all(side is not None and side.part[1] == 1 for side in sides):
            return False
        messages = [message for t in traffic for message in (*t.sends, *t.receives)]
        stays = all(message.sender == message.receiver for message in messages)
        return stays and len({side.lane.num_samples for side in sides if side}) == len(traffic[0].receives) == 1

    @property
    def has_source(self) -> bool:
        return self._source is not None

    @property
    def has_destination(self) -> bool:
        return self._destination is not None

    def exchange(self, value: torch.Tensor | None) -> torch.Tensor:
        """The destination lane's tensor from the source lanes'; collective over the edge's ranks.

        Args:
            value: the source's output; None on a rank that is not in it.

        Returns:
            On a rank of the source only, a scalar 0 whose backward pass brings the gradient of `value`.
        """
        if self._is_identity:
            assert value is not None, "a rank of the source has its output"
            return value
        anchor = torch.zeros((), device=self._device, requires_grad=torch.is_grad_enabled())
        result: torch.Tensor = _Exchange.apply(self, anchor, value)
        if self._arrived is not None:
            setattr(result, SIZES, list(self._arrived.sizes))
        return result

    def forward(self, value: torch.Tensor | None) -> tuple[torch.Tensor | None, Held | None, Held | None]:
        """The destination's tensor, and what the way back needs of the source and of the destination."""
        sending, receiving = self._sending[0], self._receiving[0]
        flat, left = self._source.rows(value) if self._source and value is not None else (None, None)
        if self._fixed is None:
            mail = sending.boundaries(left.shape, self._device) if left else []
            mail += receiving.boundaries() if receiving else []
            self.link.post(mail, Direction.FORWARD).wait()
        arrived = None
        if receiving:
            arrived = self._fixed or receiving.read(left.shape if left else None)
        self._arrived = arrived
        rows = self._carry(0, flat, left.shape if left else None, arrived)
        if rows is None or arrived is None or self._destination is None:
            return None, left, None
        held = Held(arrived)
        return self._destination.value(rows, held), left, held

    def backward(self, gradient: torch.Tensor | None, left: Held | None, held: Held | None) -> torch.Tensor | None:
        """The gradient of the source's output, from the destination's."""
        flat = self._destination.gradient(gradient) if self._destination and gradient is not None else None
        rows = self._carry(1, flat, held.shape if held else None, left.shape if left else None)
        return self._source.value(rows, left) if rows is not None and self._source and left else None

    def _carry(
        self, way: int, flat: torch.Tensor | None, shape: Shape | None, arriving: Shape | None
    ) -> torch.Tensor | None:
        """Send `flat` of `shape`, and receive rows of the shape `arriving`, if any."""
        sending, receiving, direction = self._sending[way], self._receiving[way], tuple(Direction)[way]
        sends = sending.parts(flat, shape) if flat is not None and shape else []
        rows, mail = None, list(sends)
        if receiving and arriving:
            rows = torch.empty(arriving.num_rows * arriving.hidden, dtype=self._pool.dtype, device=self._device)
            mail += receiving.parts(arriving, rows)
        self.link.num_bytes_sent += sum(m.tensor.numel() * m.tensor.element_size() for m in sends)
        self.link.post(mail, direction).wait()
        if receiving and arriving and rows is not None and flat is not None and shape:
            receiving.keep(rows, arriving, sending, flat, shape)
        return rows


class _Exchange(torch.autograd.Function):
    """`anchor` makes the result depend on something everywhere: all ranks must take part in the way back."""

    @staticmethod
    def forward(ctx: Any, bridge: SharedBridge, anchor: torch.Tensor, value: torch.Tensor | None) -> torch.Tensor:
        result, ctx.left, ctx.held = bridge.forward(value)
        ctx.bridge = bridge
        return torch.zeros_like(anchor) if result is None else result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None, torch.Tensor | None]:
        gradient = gradients[0] if ctx.bridge.has_destination else None
        return None, None, ctx.bridge.backward(gradient, ctx.left, ctx.held)
