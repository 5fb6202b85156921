"""Rank <-> coord, and *the* enumeration of groups. No other file decides which coords a rank has.

A grid's ranks are numbered in mixed radix, first axis fastest. Both views of a grid keep the pipeline axis
and differ in how they factor the rest, so one class serves both: number the ranks of one stage by `flat`
(their index among the stage's ranks, which is the other axes in mixed radix), then put pp back in:

    rank = offset + (flat // period) * period * num_stages + stage * period + flat % period

where `period` is pp's stride: the product of the sizes of the axes before pp. With tp 2, dp 2, pp 2:

    order tp-dp-pp:  period 4   stage 0 = ranks 0 1 2 3   stage 1 = ranks 4 5 6 7
    order tp-pp-dp:  period 2   stage 0 = ranks 0 1 4 5   stage 1 = ranks 2 3 6 7

Enumeration (that of megatron-core 0.19's `HyperCommGrid.get_rank_enum`, which this law restates): within a
group ranks ascend, and groups follow one another by their lowest rank. It also defines what get_rank_enum
cannot express, an expert axis that straddles pp's stride.

Nothing here is proportional to the number of ranks: a partition finds its i-th group, and the group of a
rank, from coords.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain, product
from math import prod
from typing import overload

from ..base.axes import EXPERT_AXES, Axis
from ..base.frozen import frozen
from ..base.runs import runs

Digit = tuple[int, int]  # (size, stride)


@frozen
class Box(Sequence[int]):
    """An ascending arithmetic box of ranks: start plus every combination of multiples of the strides.

    `dims` are (size, stride) pairs, slowest first, merged if they adjoin, so that equal sets of ranks
    have equal boxes. Four ranks 0 1 4 5 are Box(0, ((2, 4), (2, 1))).
    """

    start: int
    dims: tuple[Digit, ...] = ()

    @classmethod
    def of(cls, start: int, digits: Sequence[Digit]) -> Box:
        """The box of any digits whose strides nest (each at least the extent of the one below)."""
        return cls(start, merge(digits))

    def __len__(self) -> int:
        return prod(size for size, _ in self.dims)

    def __iter__(self) -> Iterator[int]:
        if not self.dims:
            return iter((self.start,))
        *outer, (size, stride) = self.dims
        runs = (range(start, start + size * stride, stride) for start in Box(self.start, tuple(outer)))
        return chain.from_iterable(runs)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"index {index} outside a box of {len(self)} ranks")
        rank = self.start
        for size, stride in reversed(self.dims):
            rank += at % size * stride
            at //= size
        return rank

    def __contains__(self, rank: object) -> bool:
        if not isinstance(rank, int):
            return False
        rest = rank - self.start
        for size, stride in self.dims:
            step = min(max(rest // stride, 0), size - 1)
            rest -= step * stride
        return rest == 0


def merge(digits: Sequence[Digit]) -> tuple[Digit, ...]:
    """Canonical dims of nested digits: slowest first, without size 1, adjoining ones joined."""
    merged: list[Digit] = []
    for size, stride in sorted(digits, key=lambda digit: digit[1]):
        if size == 1:
            continue
        if merged and stride == merged[-1][0] * merged[-1][1]:
            merged[-1] = (size * merged[-1][0], merged[-1][1])
        else:
            merged.append((size, stride))
    return tuple(reversed(merged))


# A family of sets that are one box moved about: the box's dims, and the box of all its starts, ascending.
Translates = tuple[tuple[Digit, ...], Box]


@frozen
class AxisView:
    """One factoring of a grid: the dense view, or the expert view of the same ranks and stages.

    Attributes:
        offset: the grid's first rank.
        axes: (axis, size) of every axis but pp, fastest first.
        num_stages: size of pp.
        period: stride of pp in ranks.
    """

    offset: int
    axes: tuple[tuple[Axis, int], ...]
    num_stages: int
    period: int

    @cached_property
    def digits(self) -> tuple[tuple[Axis, int, int], ...]:
        """(axis, size, stride in flat), fastest first."""
        found, stride = [], 1
        for axis, size in self.axes:
            found.append((axis, size, stride))
            stride *= size
        return tuple(found)

    @cached_property
    def num_flat(self) -> int:
        """Ranks per stage."""
        return prod(size for _, size in self.axes)

    @cached_property
    def has_whole_axes(self) -> bool:
        """Whether pp's stride falls between two axes, so that every axis has one stride in ranks."""
        return all(not stride < self.period < stride * size for _, size, stride in self.digits)

    @cached_property
    def by_stride(self) -> tuple[tuple[Axis, int, int], ...]:
        """(axis, size, stride in ranks) of all axes, by ascending stride; every axis must have one stride."""
        found = [(axis, size, self.rank_digits(size, stride)[0][1]) for axis, size, stride in self.digits]
        found.append((Axis.PP, self.num_stages, self.period))
        return tuple(sorted(found, key=lambda axis: (axis[2], axis[1])))

    @cached_property
    def is_aligned(self) -> bool:
        """Whether pp's stride falls on a whole multiple within one axis, so that every group is a box."""
        for _, size, stride in self.digits:
            if stride <= self.period < stride * size:
                return self.period % stride == 0 and (stride * size) % self.period == 0
        return True

    def locate(self, rank: int) -> tuple[int, int]:
        """(flat, stage) of a rank of this grid."""
        block, within = divmod(rank - self.offset, self.period * self.num_stages)
        stage, low = divmod(within, self.period)
        return block * self.period + low, stage

    def rank(self, flat: int, stage: int) -> int:
        """The rank at `flat` of `stage`; the inverse of `locate`."""
        block, low = divmod(flat, self.period)
        return self.offset + (block * self.num_stages + stage) * self.period + low

    @cached_property
    def names(self) -> tuple[Axis, ...]:
        """The view's axes, fastest first, pp last."""
        return (*(axis for axis, _ in self.axes), Axis.PP)

    def coords(self, rank: int) -> dict[Axis, int]:
        """The coord of `rank` on every axis of the view."""
        return dict(zip(self.names, self.coords_in_order(rank), strict=True))

    def coords_in_order(self, rank: int) -> tuple[int, ...]:
        """The coords of `rank` in the order of `names`."""
        flat, stage = self.locate(rank)
        found = []
        for _, size in self.axes:
            flat, at = divmod(flat, size)
            found.append(at)
        found.append(stage)
        return tuple(found)

    def rank_digits(self, size: int, stride: int) -> tuple[Digit, ...]:
        """A digit of flat as digits of rank: unchanged below pp's stride, spread above it, or cut there."""
        if stride >= self.period:
            return ((size, stride * self.num_stages),)
        if stride * size <= self.period:
            return ((size, stride),)
        below = self.period // stride
        return ((below, stride), (size // below, self.period * self.num_stages))


@frozen
class Partition:
    """All groups of one kind in a view: the sets of ranks that differ only along `axes`."""

    view: AxisView
    axes: tuple[Axis, ...]

    @cached_property
    def _inside(self) -> tuple[Digit, ...]:
        return tuple((size, stride) for axis, size, stride in self.view.digits if axis in self.axes)

    @cached_property
    def _across(self) -> tuple[Digit, ...]:
        return tuple((size, stride) for axis, size, stride in self.view.digits if axis not in self.axes)

    @cached_property
    def _num_across(self) -> int:
        return prod(size for size, _ in self._across)

    @cached_property
    def _spans_stages(self) -> bool:
        return Axis.PP in self.axes

    @cached_property
    def _dims(self) -> tuple[Digit, ...]:
        """Dims of every group's box, in an aligned view."""
        digits = [digit for size, stride in self._inside for digit in self.view.rank_digits(size, stride)]
        if self._spans_stages:
            digits.append((self.view.num_stages, self.view.period))
        return merge(digits)

    def __len__(self) -> int:
        return self._num_across * (1 if self._spans_stages else self.view.num_stages)

    def boxes(self, index: int) -> Sequence[Box]:
        """The ranks of group `index`: one box, or several in a view that is not aligned."""
        if not self.view.is_aligned:
            return StraddlingBoxes(self, index)
        flat, stage = self._lowest(index)
        return (Box(self.view.rank(flat, stage), self._dims),)

    @cached_property
    def linear(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """For each coord, its weight in a group's index and its share of the distance to the group's lowest rank.

        If every axis has one stride, both are sums over coords: ordering groups by lowest rank is mixed
        radix over the axes across, by stride. None in the other views.
        """
        if not self.view.has_whole_axes:
            return None
        weights, shares, weight = dict.fromkeys(self.view.names, 0), dict.fromkeys(self.view.names, 0), 1
        for axis, size, stride in self.view.by_stride:
            if axis in self.axes:
                shares[axis] = stride
            else:
                weights[axis] = weight
                weight *= size
        return tuple(weights.values()), tuple(shares.values())

    def indices(self, rank: int) -> tuple[int, ...]:
        """The index, in enumeration order, of the one group that holds `rank`."""
        flat, stage = self.view.locate(rank)
        number, weight = 0, 1
        for size, stride in self._across:
            number += flat // stride % size * weight
            weight *= size
        if self._spans_stages:
            return (number,)
        first, count = self._block(number)
        return (first * self.view.num_stages + stage * count + number - first,)

    def translates(self) -> Translates | None:
        """The dims of every group and the lowest ranks of all; None in a view that is not aligned."""
        if not self.view.is_aligned:
            return None
        digits = [digit for size, stride in self._across for digit in self.view.rank_digits(size, stride)]
        if not self._spans_stages:
            digits.append((self.view.num_stages, self.view.period))
        return self._dims, Box.of(self.view.offset, digits)

    def _lowest(self, index: int) -> tuple[int, int]:
        """(flat, stage) of the lowest rank of a group.

        Numbered by their coords across, the groups of one stage ascend; ordering all by lowest rank interleaves
        the stages in blocks: the numbers whose lowest flat lies in the same period come once for every stage.
        """
        if self._spans_stages:
            return self._flat(index), 0
        first, count = self._block(index // self.view.num_stages)
        stage, step = divmod(index - first * self.view.num_stages, count)
        return self._flat(first + step), stage

    def _flat(self, number: int) -> int:
        """The lowest flat of a stage's group of this number."""
        flat = 0
        for size, stride in self._across:
            flat += number % size * stride
            number //= size
        return flat

    def _block(self, number: int) -> tuple[int, int]:
        """(first, how many) of a stage's groups whose lowest flat lies in the same period of pp as that of `number`."""
        if self.view.period == self.view.num_flat:  # pp slowest: one block
            return 0, self._num_across
        start = self._flat(number) // self.view.period * self.view.period
        first = self._count_below(start)
        return first, self._count_below(start + self.view.period) - first

    def _count_below(self, bound: int) -> int:
        """How many groups of a stage have their lowest flat below `bound`."""
        count, weight = 0, self._num_across
        for size, stride in reversed(self._across):
            weight //= size
            step, bound = divmod(bound, stride)
            if step >= size:
                return count + size * weight
            count += step * weight
        return count + (bound > 0)

    def straddling_ranks(self, index: int) -> list[int]:
        """The ranks of a group whatever the view, ascending: work proportional to the group."""
        flat, stage = self._lowest(index)
        steps = (range(0, size * stride, stride) for size, stride in self._inside)
        stages = range(self.view.num_stages) if self._spans_stages else (stage,)
        return sorted(self.view.rank(flat + sum(offsets), at) for offsets in product(*steps) for at in stages)


@frozen
class StraddlingBoxes(Sequence[Box]):
    """The ranks of a group in a view that is not aligned, as runs. They may be many: worked out when looked at."""

    partition: Partition
    group: int

    @cached_property
    def _runs(self) -> tuple[Box, ...]:
        ranks = self.partition.straddling_ranks(self.group)
        return tuple(Box.of(first, ((last - first + 1, 1),)) for first, last in runs(ranks))

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, index: int) -> Box: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Box, ...]: ...
    def __getitem__(self, index: int | slice) -> Box | tuple[Box, ...]:
        return self._runs[index]


def dense_view(offset: int, sizes: tuple[int, ...], order: tuple[Axis, ...]) -> AxisView:
    """The view of the axes as written. `sizes` follow `order`, fastest first."""
    stage_axis = order.index(Axis.PP)
    axes = tuple((axis, size) for axis, size in zip(order, sizes, strict=True) if axis is not Axis.PP)
    return AxisView(offset, axes, sizes[stage_axis], prod(sizes[:stage_axis]))


def expert_view(dense: AxisView, expt_tp: int, ep: int) -> AxisView:
    """The expert view of a dense view: same stages, the other coords refactored as expt_tp, ep, expt_dp.

    For the default order that is megatron-core's `expt_tp-ep-expt_dp-pp`.
    """
    sizes = (expt_tp, ep, dense.num_flat // (expt_tp * ep))
    return AxisView(dense.offset, tuple(zip(EXPERT_AXES[:3], sizes, strict=True)), dense.num_stages, dense.period)
