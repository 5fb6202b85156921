"""One side of an edge on one rank: how a module's tensors become its lane's rows, and rows become tensors.

Over tp the ranks of a lane hold equal tensors. Over cp a source's ranks hold a part of each sample, joined in order of
cp before it leaves, and a destination's ranks all get whole samples: so gradients over cp are summed on their way back,
and cut into parts again at the source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
import torch.distributed as dist

from planner import Axis, GroupKind, ModulePlan, Strategy
from planner.layout.bridges import width_of

from ..errors import ExecutorError
from ..groups.groups import ProcessGroups
from .exchange import Lane
from .p2p import inside
from .packed import PackedShape, flatten, join, part, part_sizes, restore, sizes_of


def known_width(source: ModulePlan, destination: ModulePlan) -> int | None:
    """Hidden size of an edge's rows where the plan fixes it: into language. Encoders may project as they like."""
    return width_of(source, destination) if destination.is_language else None


@attrs.frozen(eq=False)
class InFlight:
    """A microbatch between its way there and its gradient's way back.

    Attributes:
        shape: of the lane's rows, whole samples.
        parts: tokens of each sample per cp rank, where the source cuts sequences; (cp, samples).
    """

    shape: PackedShape
    parts: tuple[tuple[int, ...], ...] = ()


class Endpoint:
    """The rank's lane on one side of an edge: how values become rows there, and rows values."""

    def __init__(self, groups: ProcessGroups, src: str, dst: str, dtype: torch.dtype, *, is_source: bool) -> None:
        plan, view = groups.plan, groups.view
        bridge = plan.bridge(src, dst)
        module = src if is_source else dst
        coords = view.coords[module]
        samples = view.batch_slices[module]
        ranks = (bridge.src_broadcast if is_source else bridge.dst_broadcast)[coords[Axis.DP]]
        kind = GroupKind.BRIDGE_SRC if is_source else GroupKind.BRIDGE_DST
        leader = ranks[-1] if is_source else ranks[0]
        self.lane = Lane(ranks, leader, samples.stop - samples.start, groups.get(bridge.name, kind))
        self.output = plan.module(src).output
        self.part = coords[Axis.CP], plan.module(module).grid.size_of(Axis.CP)
        self._name, self._dtype = bridge.name, dtype
        self._width = known_width(plan.module(src), plan.module(dst))
        self._cp = groups.get(module, GroupKind.CP)
        # Of the leader strategy only the leader hands on: the others of its cp group help it, the rest do nothing.
        leads = groups.rank == leader or leader in dist.get_process_group_ranks(self._cp)
        self._hands_on = bridge.strategy is not Strategy.LEADER or leads

    def rows(self, value: torch.Tensor) -> tuple[torch.Tensor, InFlight]:
        """What a source hands on: flat rows of whole samples, and their shape."""
        if value.dtype is not self._dtype:
            raise ExecutorError(f"bridge {self._name} carries {self._dtype}, got a tensor of {value.dtype}")
        try:
            local, sizes = flatten(value, self.output), sizes_of(value, self.output, self.lane.num_samples, self.part)
        except ExecutorError as error:
            raise ExecutorError(f"bridge {self._name}: {error}") from error
        hidden = local.shape[1]
        if self._width not in (None, hidden):
            rule = f"rows are {self._width} wide in the plan, got {hidden}"
            raise ExecutorError(f"bridge {self._name}: {rule}; give the plan the sizes of the model")
        if self.part[1] == 1:
            return local.view(-1), InFlight(PackedShape(sizes, hidden))
        parts = self._parts(sizes, value.device)
        held = InFlight(PackedShape(tuple(map(sum, zip(*parts, strict=True))), hidden), parts)
        return (self._join(local, parts) if self._hands_on else local).view(-1), held

    def _parts(self, sizes: tuple[int, ...], device: torch.device) -> tuple[tuple[int, ...], ...]:
        """Tokens of each sample on every cp rank; told to one another where they are not fixed."""
        fixed, num_parts = self.output.tokens_per_sample, self.part[1]
        if fixed is not None:
            return tuple((tokens,) * len(sizes) for tokens in part_sizes(fixed, num_parts))
        told = torch.empty(num_parts * len(sizes), dtype=torch.int64, device=device)
        self._over_cp(dist.all_gather_into_tensor, told, torch.tensor(sizes, device=device))
        return tuple(map(tuple, told.view(num_parts, -1).tolist()))

    def _join(self, local: torch.Tensor, parts: tuple[tuple[int, ...], ...]) -> torch.Tensor:
        longest = max(map(sum, parts))
        padded = local.new_zeros(longest, local.shape[1])
        padded[: local.shape[0]] = local
        gathered = local.new_empty(len(parts) * longest, local.shape[1])
        self._over_cp(dist.all_gather_into_tensor, gathered, padded)
        pieces = gathered.view(len(parts), longest, local.shape[1])
        return join([piece[: sum(of)] for piece, of in zip(pieces, parts, strict=True)], parts)

    def gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """What a destination hands back: flat rows, summed over cp."""
        flat = flatten(gradient, self.output).view(-1)
        if self.part[1] > 1 and self._hands_on:
            flat = flat.clone()
            self._over_cp(dist.all_reduce, flat)
        return flat

    def value(self, flat: torch.Tensor, held: InFlight) -> torch.Tensor:
        """The destination's tensor, or the source's gradient, from rows of whole samples."""
        if not held.parts:
            return restore(flat, held.shape, self.output)
        index = self.part[0]
        own = PackedShape(held.parts[index], held.shape.hidden)
        return restore(part(flat.view(-1, held.shape.hidden), held.parts, index).view(-1), own, self.output)

    def _over_cp(self, operation: Callable[..., Any], *args: Any) -> None:
        inside(self._name, dist.get_process_group_ranks(self._cp), operation, *args, group=self._cp)
