"""Proof that every bridge carries the samples that the plan says, forward and backward.

Each bridge makes two round trips. The first carries rows numbered by sample and token: each receiver compares them with
its own slice of the microbatch, and each source compares the gradients with its own samples. The second carries random
rows and is timed: backward must be the adjoint of forward, <A x, y> = <x, A' y> over the whole edge, with a different y
on every cp rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs
import torch
import torch.distributed as dist

from planner import Axis, Plan
from planner import Bridge as PlannedBridge
from planner.layout.bridges import width_of

from ..bridge.bridge import DisjointBridge
from ..bridge.packed import SIZES, PackedShape, flatten, part_sizes, restore, take_part
from ..bridge.shared_bridge import SharedBridge
from ..groups.groups import ProcessGroups

WIDTH = 1024  # hidden size if the plan gives none
_TOKENS = (4, 5, 0, 6)  # tokens of the samples in turn, if their number varies
_BACKWARD = 1000  # gradients are numbered from here, so that no forward tensor passes for one
_TOLERANCE = 1e-5  # between the two sides of the adjoint, relative to the norms of both vectors
DTYPE = torch.float32

Filling = Callable[[int, int], torch.Tensor]  # (sample, tokens) -> rows


@attrs.frozen
class BridgeTime:
    """A round trip over a bridge: the bytes that all ranks send together, and this rank's seconds."""

    name: str
    num_bytes: int
    seconds: float


def check_bridge(bridge: PlannedBridge, groups: ProcessGroups, device: torch.device) -> tuple[list[str], BridgeTime]:
    """The faults that this rank found on one bridge, and how long a round trip took. Collective over the world."""
    end = _End(bridge, groups, device)
    faults = end.trace()
    dist.barrier()
    started = time.perf_counter()
    products = end.products()
    seconds = time.perf_counter() - started
    total = torch.tensor([*products, end.num_bytes_sent], dtype=torch.float64, device=device)
    dist.all_reduce(total)
    forward, backward, norms, num_bytes = total.tolist()
    if abs(forward - backward) > _TOLERANCE * max(1.0, norms) and groups.rank == 0:
        faults.append(
            f"bridge {bridge.name}: <A x, y> = {forward:.6g}, but <x, A' y> = {backward:.6g}: not the adjoint"
        )
    return faults, BridgeTime(bridge.name, int(num_bytes), seconds)


def tokens_per_sample(plan: Plan, bridge: PlannedBridge) -> tuple[int, ...]:
    """Tokens of each sample of a microbatch: the plan's number, or else unequal numbers if the tensor allows them."""
    output, samples = plan.module(bridge.src).output, range(plan.batch_sizes.micro_size)
    if output.tokens_per_sample is not None:
        return (output.tokens_per_sample,) * len(samples)
    return tuple(_TOKENS[sample % len(_TOKENS)] if output.tensor_dims == 2 else _TOKENS[0] for sample in samples)


class _End:
    """This rank's end of the round trips over one bridge."""

    def __init__(self, bridge: PlannedBridge, groups: ProcessGroups, device: torch.device) -> None:
        plan, self._view, self._device = groups.plan, groups.view, device
        source, destination = plan.module(bridge.src), plan.module(bridge.dst)
        self._bridge, self._output = bridge, source.output
        self._tokens = tokens_per_sample(plan, bridge)
        self._width = width_of(source, destination) or WIDTH
        role = self._view.role
        self._is_source, self._is_destination = role.is_last_stage(bridge.src), role.is_first_stage(bridge.dst)
        self._cp = {name: plan.module(name).grid.size_of(Axis.CP) for name in (bridge.src, bridge.dst)}
        self._end: DisjointBridge | SharedBridge | None = None
        if self._is_source or self._is_destination:
            shared = (bridge.src, bridge.dst) in plan.pipeline.shared
            self._end = (SharedBridge if shared else DisjointBridge)(groups, bridge.src, bridge.dst, DTYPE, device)

    @property
    def num_bytes_sent(self) -> int:
        """Bytes sent to other ranks so far."""
        return self._end.p2p.num_bytes_sent if self._end else 0

    def trace(self) -> list[str]:
        """Carry numbered rows both ways; a line for each tensor that arrived wrong."""
        activations, gradients = self._numbered(0), self._numbered(_BACKWARD)
        received, gradient = self._trip(
            activations, lambda coord: _of_part(gradients, coord, self._cp[self._bridge.dst])
        )
        faults = []
        if received is not None:
            faults += self._compare("forward", received, self._rows(self._bridge.dst, activations))
        if gradient is not None:
            faults += self._compare("backward", gradient, self._source_rows(gradients))
        return faults

    def products(self) -> tuple[float, float, float]:
        """This rank's share of <A x, y>, <x, A' y> and |A x| |y|. Ranks over tp hold equal rows: one of them counts."""
        sent = self._random(0)
        before = self.num_bytes_sent
        received, gradient = self._trip(sent, lambda coord: self._random(1 + coord))
        if self._end:
            self._end.p2p.num_bytes_sent -= before  # of this trip only
        forward = backward = norms = 0.0
        if received is not None and self._counts(self._bridge.dst):
            y = self._rows(self._bridge.dst, self._random(1 + self._coord(self._bridge.dst)))
            forward = float((received.double() * y.double()).sum())
            norms = float(received.double().norm() * y.double().norm())
        if gradient is not None and self._counts(self._bridge.src):
            backward = float((gradient.double() * self._source_rows(sent).double()).sum())
        return forward, backward, norms

    def _trip(self, x: Filling, y: Callable[[int], Filling]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Make one round trip. Returns the rows that arrived at the destination and the rows of the source's gradient.

        Args:
            x: the rows that the source sends.
            y: the rows that a destination rank sends back, by its cp coord.
        """
        end, received, gradient = self._end, None, None
        if end is None:
            return None, None
        value = self._value(x) if self._is_source else None
        gradients = self._restored(self._bridge.dst, y(self._coord(self._bridge.dst))) if self._is_destination else None
        if isinstance(end, SharedBridge):
            received, anchor = end.exchange(value)
            torch.autograd.backward(anchor if received is None else received, gradients)
            gradient = None if value is None else value.grad
        elif self._is_source:
            end.send(value)
            gradient = end.expect()()
        else:
            received = end.expect()()
            end.send(gradients)
        end.p2p.flush()
        rows = [None if found is None else flatten(found, self._output) for found in (received, gradient)]
        return rows[0], rows[1]

    # ---- rows

    def _numbered(self, first: int) -> Filling:
        """Rows whose even columns hold the sample's number and whose odd columns hold the token's."""

        def fill(sample: int, tokens: int) -> torch.Tensor:
            rows = torch.full((tokens, self._width), float(first + sample))
            rows[:, 1::2] = torch.arange(tokens).unsqueeze(1)
            return rows

        return fill

    def _random(self, stream: int) -> Filling:
        def fill(sample: int, tokens: int) -> torch.Tensor:
            generator = torch.Generator().manual_seed(1000 * sample + stream)
            return torch.randn(tokens, self._width, generator=generator)

        return fill

    def _samples(self, module: str) -> range:
        taken = self._view.batch_slices[module]
        return range(taken.start, taken.stop)

    def _coord(self, module: str) -> int:
        return self._view.coords[module][Axis.CP]

    def _counts(self, module: str) -> bool:
        return self._view.coords[module][Axis.TP] == 0

    def _rows(self, module: str, fill: Filling) -> torch.Tensor:
        """Whole samples of the module's lane."""
        pieces = [fill(sample, self._tokens[sample]) for sample in self._samples(module)]
        return torch.cat(pieces).to(self._device)

    def _source_parts(self) -> tuple[tuple[int, ...], ...]:
        """Tokens of each sample of the lane on every cp rank."""
        sizes = [
            part_sizes(self._tokens[sample], self._cp[self._bridge.src]) for sample in self._samples(self._bridge.src)
        ]
        return tuple(zip(*sizes, strict=True))

    def _source_rows(self, fill: Filling) -> torch.Tensor:
        """The part of the source's samples that this cp rank holds."""
        return take_part(self._rows(self._bridge.src, fill), self._source_parts(), self._coord(self._bridge.src))

    def _value(self, fill: Filling) -> torch.Tensor:
        """The source's tensor, with the dims that the spec gives and with its sample boundaries."""
        sizes = self._source_parts()[self._coord(self._bridge.src)]
        rows = self._source_rows(fill)
        value = restore(rows.view(-1), PackedShape(tuple(sizes), self._width), self._output).detach().requires_grad_()
        setattr(value, SIZES, list(sizes))
        return value

    def _restored(self, module: str, fill: Filling) -> torch.Tensor:
        sizes = tuple(self._tokens[sample] for sample in self._samples(module))
        return restore(self._rows(module, fill).view(-1), PackedShape(sizes, self._width), self._output)

    def _compare(self, way: str, found: torch.Tensor, planned: torch.Tensor) -> list[str]:
        if found.shape == planned.shape and torch.equal(found.detach(), planned):
            return []
        where = f"rank {self._view.rank}: bridge {self._bridge.name}, {way}"
        return [f"{where}: samples {_samples(planned)} are planned, {_samples(found)} arrived"]


def _of_part(fill: Filling, coord: int, num_parts: int) -> Filling:
    """Rows that are zero except for one cp rank's tokens, so that all parts add up to the whole."""

    def only(sample: int, tokens: int) -> torch.Tensor:
        sizes = part_sizes(tokens, num_parts)
        first = sum(sizes[:coord])
        rows = torch.zeros_like(fill(sample, tokens))
        rows[first : first + sizes[coord]] = fill(sample, tokens)[first : first + sizes[coord]]
        return rows

    return only


def _samples(rows: torch.Tensor) -> str:
    """The sample numbers found in rows, each with its number of tokens."""
    values, counts = torch.unique(rows.detach()[:, 0], return_counts=True)
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    return ", ".join(f"{int(value) % _BACKWARD} (x{count})" for value, count in pairs) or "none"
