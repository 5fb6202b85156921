"""One end of an edge on one rank: how a module's tensors become its lane's rows, and rows become tensors again.

Over tp, the ranks of a lane hold equal tensors. Over cp, each rank of a source holds a part of each sample, and the
parts are joined in cp order before they leave; the ranks of a destination all get whole samples. Gradients go the
other way: they are summed over cp at the destination, and cut into parts again at the source.
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
from .p2p import in_lane
from .packed import PackedShape, flatten, join, part_sizes, restore, sizes_of, take_part


def known_width(source: ModulePlan, destination: ModulePlan) -> int | None:
    """The hidden size of an edge's rows if the plan fixes it, which it does for edges into language.

    Between encoders it is None: the source may project to any width.
    """
    return width_of(source, destination) if destination.is_language else None


@attrs.frozen(eq=False)
class InFlight:
    """What an endpoint remembers of a microbatch between its activations and their gradient.

    Attributes:
        shape: shape of the lane's rows, whole samples.
        parts: tokens of each sample on each cp rank, as (cp, samples); empty if the source does not cut sequences.
    """

    shape: PackedShape
    parts: tuple[tuple[int, ...], ...] = ()


class Endpoint:
    """A rank's end of an edge: turns values into the rows of its lane, and rows into values.

    Attributes:
        lane: the boundary ranks of this rank's lane.
        output: what the spec says about the tensors of the edge.
        cp_coord, cp_size: the rank's place among the ranks that hold parts of the same samples, and their number.
    """

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
        self.cp_coord, self.cp_size = coords[Axis.CP], plan.module(module).grid.size_of(Axis.CP)
        self._name, self._dtype = bridge.name, dtype
        self._width = known_width(plan.module(src), plan.module(dst))
        self._cp = groups.get(module, GroupKind.CP)
        # With the leader strategy only the leader's rows leave the lane, so only its cp group has to join or sum parts.
        serves_leader = groups.rank == leader or leader in dist.get_process_group_ranks(self._cp)
        self._combines_parts = bridge.strategy is not Strategy.LEADER or serves_leader

    def rows(self, value: torch.Tensor) -> tuple[torch.Tensor, InFlight]:
        """What a source hands on.

        Returns:
            The lane's rows, flat, and what the gradient will need. The rows are those of whole samples, except on a
            rank whose rows do not leave the lane (leader strategy, cp > 1): there they are the rank's own part.

        Raises:
            ExecutorError: the tensor does not have the dtype, dims, samples, tokens or width of the plan.
        """
        if value.dtype is not self._dtype:
            raise ExecutorError(f"bridge {self._name} carries {self._dtype}, got a tensor of {value.dtype}")
        try:
            local = flatten(value, self.output)
            sizes = sizes_of(value, self.output, self.lane.num_samples, (self.cp_coord, self.cp_size))
        except ExecutorError as error:
            raise ExecutorError(f"bridge {self._name}: {error}") from error
        hidden = local.shape[1]
        if self._width not in (None, hidden):
            rule = f"rows are {self._width} wide in the plan, got {hidden}"
            raise ExecutorError(f"bridge {self._name}: {rule}; give the plan the sizes of the model")
        if self.cp_size == 1:
            return local.view(-1), InFlight(PackedShape(sizes, hidden))
        parts = self._parts(sizes, value.device)
        whole = PackedShape(tuple(map(sum, zip(*parts, strict=True))), hidden)
        rows = self._join(local, parts) if self._combines_parts else local
        return rows.view(-1), InFlight(whole, parts)

    def _parts(self, sizes: tuple[int, ...], device: torch.device) -> tuple[tuple[int, ...], ...]:
        """Tokens of each sample on every cp rank: known, if the spec fixes tokens per sample; else gathered over cp."""
        fixed = self.output.tokens_per_sample
        if fixed is not None:
            return tuple((tokens,) * len(sizes) for tokens in part_sizes(fixed, self.cp_size))
        gathered = torch.empty(self.cp_size * len(sizes), dtype=torch.int64, device=device)
        self._over_cp(dist.all_gather_into_tensor, gathered, torch.tensor(sizes, device=device))
        return tuple(map(tuple, gathered.view(self.cp_size, -1).tolist()))

    def _join(self, local: torch.Tensor, parts: tuple[tuple[int, ...], ...]) -> torch.Tensor:
        longest = max(map(sum, parts))
        padded = local.new_zeros(longest, local.shape[1])
        padded[: local.shape[0]] = local
        gathered = local.new_empty(len(parts) * longest, local.shape[1])
        self._over_cp(dist.all_gather_into_tensor, gathered, padded)
        by_rank = gathered.view(len(parts), longest, local.shape[1])
        return join([rows[: sum(sizes)] for rows, sizes in zip(by_rank, parts, strict=True)], parts)

    def gradient(self, gradient: torch.Tensor) -> torch.Tensor:
        """What a destination hands back: the gradient of its input as flat rows, summed over cp."""
        flat = flatten(gradient, self.output).view(-1)
        if self.cp_size > 1 and self._combines_parts:
            flat = flat.clone()
            self._over_cp(dist.all_reduce, flat)
        return flat

    def value(self, flat: torch.Tensor, microbatch: InFlight) -> torch.Tensor:
        """A destination's input, or the gradient of a source's output, from flat rows of whole samples."""
        shape, parts = microbatch.shape, microbatch.parts
        if not parts:
            return restore(flat, shape, self.output)
        own = PackedShape(parts[self.cp_coord], shape.hidden)
        return restore(take_part(flat.view(-1, shape.hidden), parts, self.cp_coord).view(-1), own, self.output)

    def _over_cp(self, operation: Callable[..., Any], *args: Any) -> None:
        in_lane(self._name, dist.get_process_group_ranks(self._cp), operation, *args, group=self._cp)
