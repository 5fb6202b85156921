"""An edge between modules on ranks of their own: activations across it, and gradients back.

Carries out the plan's messages, microbatch by microbatch as the pipeline asks. Any ratio of lanes, any tokens per
sample, tp and cp on either side (sides.py). Where tokens per sample and hidden size are known from the plan no shape
is exchanged; else each transfer brings a header (hidden size, tokens of each sample), sent together with its rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

from planner import Direction, ModulePlan

from ..errors import ExecutorError
from ..groups.groups import ProcessGroups
from .buffer_pool import Pool
from .endpoint import Endpoint, InFlight, known_width
from .exchange import Receiving, Sending
from .p2p import P2P, Requests
from .packed import SIZES, PackedShape


def fixed_shape(source: ModulePlan, destination: ModulePlan, num_samples: int) -> PackedShape | None:
    """The shape of a lane's rows where the plan fixes it."""
    tokens, hidden = source.output.tokens_per_sample, known_width(source, destination)
    return None if tokens is None or hidden is None else PackedShape((tokens,) * num_samples, hidden)


class DisjointBridge:
    """One end of an edge. `send` hands on a source's output, or a destination's gradient; `expect` takes the other.

    Microbatches come back in the order in which they left. Under `torch.no_grad` none is expected to: passes without
    backward must run under it.
    """

    def __init__(self, groups: ProcessGroups, src: str, dst: str, dtype: torch.dtype, device: torch.device) -> None:
        plan, rank = groups.plan, groups.rank
        planned, source = plan.bridge(src, dst), plan.module(src)
        self.src, self.dst = src, dst
        self.is_source = groups.view.role.is_last_stage(src)
        self._device, self._dtype = device, dtype
        self._side = Endpoint(groups, src, dst, dtype, is_source=self.is_source)
        self._pool = Pool(dtype, device)
        out, back = tuple(Direction) if self.is_source else tuple(Direction)[::-1]
        self._sending = Sending(plan.traffic(src, dst, rank, out).sends, out)
        messages = plan.traffic(src, dst, rank, back).receives
        self._receiving = Receiving(planned, messages, back, self._side.lane, rank, self._pool)
        self.link = P2P(planned.name, groups, max_pending=plan.pipeline.num_stages)
        self._max_held = plan.pipeline.num_stages
        self._fixed = fixed_shape(source, plan.module(dst), self._side.lane.num_samples)
        self._held: deque[InFlight] = deque()

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
        self._hold(held)
        boundaries = self._sending.boundaries(held.shape, self._device) if self._fixed is None else ()
        self.link.send(Direction.FORWARD, self._sending.parts(flat, held.shape), boundaries)

    def _hold(self, held: InFlight) -> None:
        """Keep what the gradient's way back needs, where one will come."""
        if not torch.is_grad_enabled():
            return
        self._held.append(held)
        if len(self._held) > self._max_held:
            rule = f"at most {self._max_held} microbatches are in flight, and {len(self._held)} wait for their gradient"
            raise ExecutorError(f"bridge {self.link.name}: {rule}; run passes without backward under torch.no_grad()")

    def _expect_gradient(self) -> Callable[[], torch.Tensor]:
        held = self._held.popleft()
        flat = self._pool.take(held.shape.num_rows * held.shape.hidden)
        posted = self.link.post(self._receiving.parts(held.shape, flat), Direction.BACKWARD)

        def finish() -> torch.Tensor:
            posted.wait()
            self._receiving.complete(held.shape, flat)
            return self._side.value(flat, held)

        return finish

    def _expect_input(self) -> Callable[[], torch.Tensor]:
        if self._fixed is not None:
            shape = self._fixed
            flat, posted = self._post_parts(shape)
            return lambda: self._complete(shape, flat, posted)
        boundaries = self.link.post(self._receiving.boundaries(), Direction.FORWARD)

        def finish() -> torch.Tensor:
            boundaries.wait()
            shape = self._receiving.read()
            return self._complete(shape, *self._post_parts(shape))

        return finish

    def _post_parts(self, shape: PackedShape) -> tuple[torch.Tensor, Requests]:
        flat = self._pool.take(shape.num_rows * shape.hidden)
        return flat, self.link.post(self._receiving.parts(shape, flat), Direction.FORWARD)

    def _complete(self, shape: PackedShape, flat: torch.Tensor, posted: Requests) -> torch.Tensor:
        posted.wait()
        self._receiving.complete(shape, flat)
        held = InFlight(shape)
        self._hold(held)
        arrived = self._side.value(flat, held).detach().requires_grad_()
        setattr(arrived, SIZES, list(shape.sizes))
        return arrived

    def _send_gradient(self, value: torch.Tensor | None) -> None:
        held = self._held.popleft()
        if value is None:
            size = held.shape.num_rows * held.shape.hidden
            flat = torch.zeros(size, dtype=self._dtype, device=self._device)
        else:
            flat = self._side.gradient(value)
        if flat.numel() != held.shape.num_rows * held.shape.hidden:
            rule = f"the oldest microbatch has {held.shape.num_rows} rows, its gradient {flat.numel()} elements"
            raise ExecutorError(f"bridge {self.link.name}: {rule}; run passes without backward under torch.no_grad()")
        self.link.send(Direction.BACKWARD, self._sending.parts(flat, held.shape))
