"""An edge between modules on ranks of their own: activations across it, and gradients back.

Carries out the plan's messages, microbatch by microbatch as the pipeline asks. Any ratio of lanes, any tokens per
sample, tp and cp on either side (sides.py). Where tokens per sample and hidden size are known from the plan no shape
is exchanged; else each transfer brings a header (hidden size, tokens of each sample), posted together with its rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

from planner import Direction, ModulePlan

from .buffers import Buffer, Pool
from .crossing import Receiving, Sending
from .groups import ProcessGroups
from .link import Link, Posted
from .rows import SIZES, Shape
from .sides import Held, Side, known_width


def fixed_shape(source: ModulePlan, destination: ModulePlan, num_samples: int) -> Shape | None:
    """The shape of a lane's rows where the plan fixes it."""
    tokens, hidden = source.output.tokens_per_sample, known_width(source, destination)
    return None if tokens is None or hidden is None else Shape((tokens,) * num_samples, hidden)


class Bridge:
    """One end of an edge. `send` hands on a source's output, or a destination's gradient; `expect` takes the other.

    Microbatches come back in the order in which they left. Under `torch.no_grad` none is expected to.
    """

    def __init__(self, groups: ProcessGroups, src: str, dst: str, dtype: torch.dtype, device: torch.device) -> None:
        plan, rank = groups.plan, groups.rank
        planned, source = plan.bridge(src, dst), plan.module(src)
        self.src, self.dst = src, dst
        self.is_source = groups.view.role.is_last_stage(src)
        self._device, self._dtype = device, dtype
        self._side = Side(groups, src, dst, dtype, is_source=self.is_source)
        self._pool = Pool(dtype, device)
        out, back = tuple(Direction) if self.is_source else tuple(Direction)[::-1]
        self._sending = Sending(plan.traffic(src, dst, rank, out).sends, out)
        messages = plan.traffic(src, dst, rank, back).receives
        self._receiving = Receiving(planned, messages, back, self._side.lane, rank, self._pool)
        self.link = Link(planned.name, groups.with_peer(planned.name), max_pending=2 * plan.total_stages)
        self._fixed = fixed_shape(source, plan.module(dst), self._side.lane.num_samples)
        self._held: deque[Held] = deque()
        self._spent: Buffer | None = None

    def send(self, value: torch.Tensor | None) -> None:
        """Hand on a microbatch: a source's output, or a destination's gradient (None: nothing depended on it).

        The tensor may be used and freed afterwards, but not be written to.
        """
        if self.is_source:
            assert value is not None, "a source has an output, perhaps of no rows"
            self._send_output(value)
        else:
            self._send_gradient(value)

    def expect(self) -> Callable[[], torch.Tensor]:
        """Post what can be posted for the next microbatch; the result waits for it."""
        return self._expect_gradient() if self.is_source else self._expect_input()

    def _send_output(self, value: torch.Tensor) -> None:
        flat, held = self._side.rows(value)
        if torch.is_grad_enabled():
            self._held.append(held)
        if self._fixed is None:
            self.link.send(self._sending.boundaries(held.shape, self._device), Direction.FORWARD)
        self.link.send_rows(self._sending.parts(flat, held.shape), Direction.FORWARD)

    def _expect_gradient(self) -> Callable[[], torch.Tensor]:
        held = self._held.popleft()
        self._take_back()
        buffer = self._spent = self._pool.take(held.shape.num_rows * held.shape.hidden)
        posted = self.link.post(self._receiving.parts(held.shape, buffer.flat), Direction.BACKWARD)

        def finish() -> torch.Tensor:
            posted.wait()
            self._receiving.complete(held.shape, buffer.flat)
            return self._side.value(buffer.flat, held)

        return finish

    def _take_back(self) -> None:
        """The memory of the last gradient: its backward pass has ended."""
        if self._spent is not None:
            self._pool.give(self._spent)
            self._spent = None

    def _expect_input(self) -> Callable[[], torch.Tensor]:
        if self._fixed is not None:
            shape = self._fixed
            buffer, posted = self._post_parts(shape)
            return lambda: self._complete(shape, buffer, posted)
        boundaries = self.link.post(self._receiving.boundaries(), Direction.FORWARD)

        def finish() -> torch.Tensor:
            boundaries.wait()
            shape = self._receiving.read()
            return self._complete(shape, *self._post_parts(shape))

        return finish

    def _post_parts(self, shape: Shape) -> tuple[Buffer, Posted]:
        buffer = self._pool.take(shape.num_rows * shape.hidden)
        return buffer, self.link.post(self._receiving.parts(shape, buffer.flat), Direction.FORWARD)

    def _complete(self, shape: Shape, buffer: Buffer, posted: Posted) -> torch.Tensor:
        posted.wait()
        self._receiving.complete(shape, buffer.flat)
        held = Held(shape, buffer=buffer)
        if torch.is_grad_enabled():
            self._held.append(held)
        arrived = self._side.value(buffer.flat, held).detach().requires_grad_()
        setattr(arrived, SIZES, list(shape.sizes))
        return arrived

    def _send_gradient(self, value: torch.Tensor | None) -> None:
        held = self._held.popleft()
        if value is None:
            size = held.shape.num_rows * held.shape.hidden
            flat = torch.zeros(size, dtype=self._dtype, device=self._device)
        else:
            flat = self._side.gradient(value)
        self.link.send_rows(self._sending.parts(flat, held.shape), Direction.BACKWARD)
        if held.buffer is not None:  # the activations that this gradient belongs to are not needed any more
            self._pool.give(held.buffer)
