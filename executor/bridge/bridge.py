"""An edge between modules on disjoint ranks: activations travel forward across it, and their gradients backward.

A bridge carries out the plan's messages, one microbatch whenever the pipeline asks for one. It works for any ratio of
lanes, any number of tokens per sample, and tp and cp at either end (endpoint.py). If the plan fixes the tokens per
sample and the hidden size, no shapes are exchanged. Otherwise each transfer comes with a header (the hidden size and
the tokens of each sample), which is posted together with its rows.
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
    """The shape of a lane's rows if the plan fixes it, else None."""
    tokens, hidden = source.output.tokens_per_sample, known_width(source, destination)
    return None if tokens is None or hidden is None else PackedShape((tokens,) * num_samples, hidden)


class DisjointBridge:
    """One end of an edge on one rank.

    At the source, `send` hands on an output and `expect` waits for a gradient; at the destination, `expect` waits for
    an input and `send` hands back its gradient. Gradients come back in the order in which the microbatches left.

    Under `torch.no_grad` no gradient is expected, so a pass without a backward pass must run under it.
    """

    def __init__(self, groups: ProcessGroups, src: str, dst: str, dtype: torch.dtype, device: torch.device) -> None:
        plan, rank = groups.plan, groups.rank
        planned, source = plan.bridge(src, dst), plan.module(src)
        self.src, self.dst = src, dst
        self.is_source = groups.view.role.is_last_stage(src)
        self._device, self._dtype = device, dtype
        self._endpoint = Endpoint(groups, src, dst, dtype, is_source=self.is_source)
        self._pool = Pool(dtype, device)
        sent, received = tuple(Direction) if self.is_source else tuple(Direction)[::-1]
        lane = self._endpoint.lane
        self._sending = Sending(plan.traffic(src, dst, rank, sent).sends, sent)
        messages = plan.traffic(src, dst, rank, received).receives
        self._receiving = Receiving(planned, messages, received, lane, rank, self._pool)
        self._max_in_flight = plan.pipeline.num_stages
        self.p2p = P2P(planned.name, groups, max_pending=self._max_in_flight)
        self._fixed = fixed_shape(source, plan.module(dst), lane.num_samples)
        self._in_flight: deque[InFlight] = deque()

    def send(self, value: torch.Tensor | None) -> None:
        """Hand on a microbatch: a source's output, or a destination's gradient.

        Args:
            value: the tensor. It may be used and freed afterwards, but not be written to. A destination passes None if
                nothing depended on its input.

        Raises:
            ExecutorError: the tensor is not what the plan says, or more microbatches wait for their gradient than the
                pipeline has stages.
        """
        if self.is_source:
            assert value is not None, "a source has an output, perhaps of no rows"
            self._send_output(value)
        else:
            self._send_gradient(value)

    def expect(self) -> Callable[[], torch.Tensor]:
        """Post what can be posted for the next microbatch, and return the function that waits for it.

        That function returns a destination's input, or the gradient of a source's output.
        """
        return self._expect_gradient() if self.is_source else self._expect_input()

    def _send_output(self, value: torch.Tensor) -> None:
        flat, output = self._endpoint.rows(value)
        self._remember(output)
        headers = self._sending.headers(output.shape, self._device) if self._fixed is None else ()
        self.p2p.send(Direction.FORWARD, self._sending.payloads(flat, output.shape), headers)

    def _remember(self, microbatch: InFlight) -> None:
        """Keep what the gradient will need, if there will be one."""
        if not torch.is_grad_enabled():
            return
        self._in_flight.append(microbatch)
        if len(self._in_flight) > self._max_in_flight:
            rule = (
                f"at most {self._max_in_flight} microbatches are in flight, "
                f"and {len(self._in_flight)} wait for their gradient"
            )
            raise ExecutorError(f"bridge {self.p2p.name}: {rule}; run passes without backward under torch.no_grad()")

    def _expect_gradient(self) -> Callable[[], torch.Tensor]:
        output = self._in_flight.popleft()
        flat = self._pool.take(output.shape.num_elements)
        requests = self.p2p.post(self._receiving.buffers(output.shape, flat), Direction.BACKWARD)

        def finish() -> torch.Tensor:
            requests.wait()
            self._receiving.complete(output.shape, flat)
            return self._endpoint.value(flat, output)

        return finish

    def _expect_input(self) -> Callable[[], torch.Tensor]:
        if self._fixed is not None:
            shape = self._fixed
            flat, requests = self._post_receives(shape)
            return lambda: self._complete(shape, flat, requests)
        headers = self.p2p.post(self._receiving.header_buffers(), Direction.FORWARD)

        def finish() -> torch.Tensor:
            headers.wait()
            shape = self._receiving.read_headers()
            return self._complete(shape, *self._post_receives(shape))

        return finish

    def _post_receives(self, shape: PackedShape) -> tuple[torch.Tensor, Requests]:
        flat = self._pool.take(shape.num_elements)
        return flat, self.p2p.post(self._receiving.buffers(shape, flat), Direction.FORWARD)

    def _complete(self, shape: PackedShape, flat: torch.Tensor, requests: Requests) -> torch.Tensor:
        requests.wait()
        self._receiving.complete(shape, flat)
        received = InFlight(shape)
        self._remember(received)
        value = self._endpoint.value(flat, received).detach().requires_grad_()
        setattr(value, SIZES, list(shape.sizes))
        return value

    def _send_gradient(self, value: torch.Tensor | None) -> None:
        shape = self._in_flight.popleft().shape
        if value is None:
            flat = torch.zeros(shape.num_elements, dtype=self._dtype, device=self._device)
        else:
            flat = self._endpoint.gradient(value)
        if flat.numel() != shape.num_elements:
            rule = f"the oldest microbatch has {shape.num_rows} rows, its gradient {flat.numel()} elements"
            raise ExecutorError(f"bridge {self.p2p.name}: {rule}; run passes without backward under torch.no_grad()")
        self.p2p.send(Direction.BACKWARD, self._sending.payloads(flat, shape))
