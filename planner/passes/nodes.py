"""Pass: what the nodes of the cluster make slow or fragile, as warnings, with the change that avoids it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import gcd

import attrs

from ..base import codes
from ..base.axes import DEFAULT_ORDER, Axis, format_order
from ..base.errors import Faults
from ..base.frozen import frozen
from ..layout.coords import Partition
from ..layout.ir import Grid

_MOST_MOVED = 32  # modules: every move looks at all of them
_MAX_LOOKED_AT = 4096  # groups of a grid whose axes have several strides

Grids = Mapping[str, Grid]


@frozen
class Move:
    """A change that keeps a module's groups inside nodes.

    Attributes:
        words: what to write.
        module: the module.
        order: its new order; None if it keeps its own.
        is_first: whether the module is written before all others.
    """

    words: str
    module: str
    order: tuple[Axis, ...] | None = None
    is_first: bool = False

    def moved(self, grids: Grids) -> dict[str, Grid]:
        """The grids after the change. If a module becomes the first, all lie one after the other."""
        found = dict(grids)
        if self.order:
            grid = found[self.module]
            sizes = tuple(grid.size_of(axis) for axis in self.order)
            found[self.module] = attrs.evolve(grid, order=self.order, sizes=sizes)
        if self.is_first:
            found = {self.module: found[self.module]} | found
            end = 0
            for name, grid in found.items():
                found[name] = attrs.evolve(grid, rank_offset=end)
                end += grid.size
        return found


def check_nodes(grids: Grids, gpus_per_node: int | None, faults: Faults, *, has_offsets: bool = True) -> None:
    """Warn of uneven nodes, and of groups that leave a node without need.

    Args:
        grids: the grid of every module.
        gpus_per_node: if it is known.
        faults: where warnings are added.
        has_offsets: whether the spec says where each module begins, and not the order of modules.
    """
    if gpus_per_node is None:
        return
    world = max(grid.end for grid in grids.values())
    if world > gpus_per_node and world % gpus_per_node:
        rule = f"world % gpus_per_node = {world} % {gpus_per_node} = 0, got {world % gpus_per_node}"
        remedy = "use whole nodes, or test start-up on this NCCL version first"
        faults.add(codes.UNEVEN_NODES, ("cluster",), rule, remedy)
    for name, grid in grids.items():
        for axis, ranks in crossings(grid, gpus_per_node).items():
            what = axis.value
            rule = (
                f"{what} groups of {name} stay inside nodes of {gpus_per_node} GPUs; the one of ranks "
                f"{spelled(ranks)} does not"
            )
            tried = moves(grids, name, gpus_per_node, has_offsets=has_offsets)
            move = next(tried, None) if len(grids) <= _MOST_MOVED else None
            code = codes.EXPERTS_CROSS_NODE if axis is Axis.EP else codes.TP_CROSSES_NODE
            faults.add(
                code,
                ("modules", name, "parallel", what),
                rule,
                move.words if move else _general(grid, axis, gpus_per_node),
            )


def _general(grid: Grid, axis: Axis, gpus_per_node: int) -> str:
    """What to do if no move helps. `order` has the dense axes alone, and no group fits into less ranks than it has."""
    if grid.size_of(axis) > gpus_per_node:
        return f"choose {axis} as a divisor of {gpus_per_node}"
    first = "put tp first in `order`, " if axis is Axis.TP and grid.order[0] is not Axis.TP else ""
    return f"choose {axis} as a divisor of {gpus_per_node}, {first}or shift rank_offset"


def moves(grids: Grids, name: str, gpus_per_node: int, *, has_offsets: bool) -> Iterator[Move]:
    """The changes after which fewer kinds of groups cross nodes, those of one key first."""
    default, now = DEFAULT_ORDER, num_crossing(grids, gpus_per_node)
    order = f"order: {format_order(default)} on {name}"
    tried = []
    if grids[name].order != default:
        tried.append(Move(order, name, order=default))
    first = f"write {name} before the other modules"
    is_apart = sum(grid.size for grid in grids.values()) == max(grid.end for grid in grids.values())
    if is_apart and grids[name].rank_offset > 0:
        if has_offsets:
            begins = Move("", name, is_first=True).moved(grids).items()
            first = "rank_offset: " + ", ".join(f"{grid.rank_offset} on {other}" for other, grid in begins)
        tried.append(Move(first, name, is_first=True))
    if len(tried) == 2:
        tried.append(Move(f"{order} and {first}", name, order=default, is_first=True))
    for move in tried:
        if num_crossing(move.moved(grids), gpus_per_node) < now:
            yield move


def num_crossing(grids: Grids, gpus_per_node: int) -> int:
    """The number of modules' kinds of groups that cross nodes."""
    return sum(len(crossings(grid, gpus_per_node)) for grid in grids.values())


def crossings(grid: Grid, gpus_per_node: int) -> dict[Axis, range]:
    """For each axis whose groups should be inside nodes, and of which one is not, the ranks of that group.

    Tensor parallelism, of experts too, communicates in every layer. Groups of expert parallelism that are wider than a
    node are not looked at, because they have to cross.
    """
    found = {}
    for axis, size in ((Axis.TP, grid.size_of(Axis.TP)), (Axis.EXPT_TP, grid.expt_tp), (Axis.EP, grid.ep)):
        if size == 1 or (axis is Axis.EP and size * grid.expt_tp > gpus_per_node):
            continue
        view = grid.dense if axis is Axis.TP else grid.expert
        if not view.has_whole_axes:
            ranks = _looked_for(Partition(view, (axis,)), gpus_per_node)
        else:
            stride = next(stride for other, _, stride in view.by_stride if other is axis)
            ranks = _crossing(grid, size, stride, gpus_per_node)
        if ranks:
            found[axis] = ranks
    return found


def _looked_for(groups: Partition, gpus_per_node: int) -> range | None:
    """A group that a node boundary cuts, among the first few thousand."""
    for index in range(min(len(groups), _MAX_LOOKED_AT)):
        ranks = sorted(rank for box in groups.boxes(index) for rank in box)
        if ranks[0] // gpus_per_node != ranks[-1] // gpus_per_node:
            return range(ranks[0], ranks[-1] + 1)
    return None


def _crossing(grid: Grid, size: int, stride: int, gpus_per_node: int) -> range | None:
    """A group that a node boundary cuts. Only boundaries are tried: they are few, and their pattern repeats."""
    extent, period = (size - 1) * stride, size * stride  # the groups of an axis tile the grid in blocks of `period`
    first = (grid.rank_offset // gpus_per_node + 1) * gpus_per_node
    num_distinct = period // gcd(period, gpus_per_node)
    for boundary in range(first, min(grid.end, first + num_distinct * gpus_per_node), gpus_per_node):
        block = grid.rank_offset + (boundary - 1 - grid.rank_offset) // period * period
        if boundary < block + stride + extent:
            lowest = max(block, boundary - extent)
            return range(lowest, lowest + extent + 1, stride)
    return None


def spelled(ranks: range) -> str:
    """`0-7`, or `0-14 by 2`."""
    return f"{ranks[0]}-{ranks[-1]}" + (f" by {ranks.step}" if ranks.step > 1 else "")
