"""Pass: from modules to grids. Sizes, data parallelism from the ranks that remain, offsets, coverage.

The caller or `cluster` says how large the world is; if neither does, it is what the modules cover.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm

from ..base import codes
from ..base.axes import DENSE_AXES, MAX_SIZE, Axis
from ..base.errors import Faults, Path
from ..layout.ir import Grid
from ..spec.fields import INVALID, Integer
from ..spec.sections import Module, Parallel
from ..spec.spec import Spec

MAX_RANKS = MAX_SIZE


def known_world(spec: Spec, world_size: int | None, faults: Faults) -> int | None:
    """The number of ranks, if it is known; `world_size` overrides the cluster."""
    if world_size is not None:
        checked = Integer(1, MAX_RANKS).parse(world_size, ("world_size",), faults)
        return None if checked is INVALID else world_size
    cluster = spec.cluster
    if cluster is None or cluster.nodes is None:
        return None
    if cluster.gpus_per_node is None:
        rule = f"the world is nodes * gpus_per_node ranks; nodes is {cluster.nodes}, gpus_per_node is missing"
        faults.add(codes.CONFLICT, ("cluster", "nodes"), rule, "add gpus_per_node, or remove nodes")
        return None
    world = cluster.nodes * cluster.gpus_per_node
    if world > MAX_RANKS:
        rule = f"the world has at most {MAX_RANKS} ranks, got {cluster.nodes} * {cluster.gpus_per_node} = {world}"
        faults.add(codes.TOO_MANY_RANKS, ("cluster",), rule, "use fewer nodes")
    return world


def place(spec: Spec, world_size: int | None, faults: Faults) -> dict[str, Grid]:
    """The grid of every module, in plan order; empty if a fault was added."""
    world = known_world(spec, world_size, faults)
    if faults.has_errors:
        return {}
    grids = _Placing(spec, world, faults).grids()
    if grids:
        _check_coverage(grids, world, spec.batch.micro_size, faults)
    return {} if faults.has_errors else grids


class _Placing:
    """One run of the pass over a spec: first the sizes (including any dp that is left out), then the offsets."""

    def __init__(self, spec: Spec, world: int | None, faults: Faults) -> None:
        self.world = world
        self.faults = faults
        self.parallel = {name: module.parallel or Parallel() for name, module in spec.modules.items()}
        self.offsets = {name: p.rank_offset for name, p in self.parallel.items() if p.rank_offset is not None}
        self.is_colocated = not self.offsets and is_colocated(spec.placement, spec.modules)
        if self.offsets and spec.placement is not None:
            rule = f"explicit offsets override placement: {spec.placement}"
            faults.add(codes.NO_EFFECT, ("placement",), rule, "remove placement, or every rank_offset")

    def grids(self) -> dict[str, Grid]:
        """The grids; empty, with faults added, if sizes or offsets cannot be determined."""
        if 0 < len(self.offsets) < len(self.parallel):
            missing = [name for name in self.parallel if name not in self.offsets]
            for name in missing:
                rule = f"rank_offset is on every module or on none; {', '.join(self.offsets)} has one, {name} has none"
                remedy = f"add rank_offset to {name}, or remove the other rank_offsets"
                self.faults.add(codes.PARTIAL_OFFSETS, _path(name), rule, remedy)
            return {}
        lanes = {name: self._num_lanes(name) for name in self.parallel}
        known = {name: num for name, num in lanes.items() if num is not None}
        if len(known) < len(lanes):
            return {}
        sizes = {name: known[name] * _lane_size(p) for name, p in self.parallel.items()}
        for name, size in sizes.items():
            self._check_sizes(name, size)
        if self.is_colocated and len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
            remedy = "choose equal products tp * cp * dp * pp, or remove `placement: colocated`"
            rule = f"colocated modules have equal numbers of ranks; found {listed}"
            self.faults.add(codes.COLOCATED_SIZES, ("placement",), rule, remedy)
        if self.faults.has_errors:
            return {}
        offsets = self._laid_out(sizes)
        return {name: _grid(p, known[name], offsets[name]) for name, p in self.parallel.items()}

    def _num_lanes(self, name: str) -> int | None:
        """A module's dp; None, with a fault added, if it cannot be determined."""
        parallel = self.parallel[name]
        if parallel.dp is not None:
            return parallel.dp
        if self.world is None:
            return 1
        remaining = self._remaining_ranks(name, self.world)
        if remaining is None:
            return None
        num_lanes, rest = divmod(remaining, _lane_size(parallel))
        if num_lanes >= 1 and rest == 0:
            return num_lanes
        axes = " * ".join(f"{axis} {getattr(parallel, axis)}" for axis in ("tp", "cp", "pp"))
        rule = (
            f"dp of {name} = (ranks that remain) / (tp * cp * pp) = {remaining} / ({axes}) = "
            f"{remaining / _lane_size(parallel):g}, must be whole and at least 1"
        )
        remedy = f"make tp * cp * pp of {name} a divisor of {remaining}" if remaining > 0 else "use more nodes"
        self.faults.add(codes.UNEVEN_DP, (*_path(name), "parallel"), rule, remedy)
        return None

    def _remaining_ranks(self, name: str, world: int) -> int | None:
        """The ranks that a module without dp may take, by kind of placement."""
        if self.offsets:  # up to the next module, or to the end of the world
            start = self.offsets[name]
            return min((other for other in self.offsets.values() if other > start), default=world) - start
        if self.is_colocated:
            return world
        others = {other: p for other, p in self.parallel.items() if other != name}
        open_too = [other for other, p in others.items() if p.dp is None]
        if open_too:
            if not self.faults.has(codes.AMBIGUOUS_DP):  # said once, at the first of them
                self._ambiguous(name, open_too)
            return None
        return world - sum(_lane_size(p) * (p.dp or 1) for p in others.values())

    def _ambiguous(self, name: str, others: list[str]) -> None:
        rule = f"at most one module of a disjoint placement leaves dp open; {', '.join([name, *others])} do"
        remedy = "write dp on all but one of them, or `placement: colocated`"
        self.faults.add(codes.AMBIGUOUS_DP, (*_path(name), "parallel"), rule, remedy)

    def _laid_out(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """First rank of every module."""
        if self.offsets:
            return self.offsets
        offsets, end = {}, 0
        for name, size in sizes.items():
            offsets[name] = 0 if self.is_colocated else end
            end += size
        return offsets

    def _check_sizes(self, name: str, size: int) -> None:
        parallel = self.parallel[name]
        path = (*_path(name), "parallel")
        if size > MAX_RANKS:
            rule = f"tp * cp * dp * pp of {name} <= {MAX_RANKS}, got {size}"
            self.faults.add(codes.TOO_MANY_RANKS, path, rule, "choose smaller sizes")
        per_stage = size // parallel.pp
        experts = parallel.expt_tp * parallel.ep
        if per_stage % experts:
            rule = (
                f"expt_dp of {name} = tp * cp * dp / (expt_tp * ep) = {per_stage} / ({parallel.expt_tp} * "
                f"{parallel.ep}) = {per_stage / experts:g}, must be whole"
            )
            lanes = lcm(parallel.tp * parallel.cp, experts) // (parallel.tp * parallel.cp)
            ranks = lanes * _lane_size(parallel)
            remedy = (
                f"make dp of {name} a multiple of {lanes}, which takes a multiple of {ranks} ranks, or expt_tp * ep a "
                f"divisor of {per_stage}"
            )
            self.faults.add(codes.EXPERT_AXES_UNEVEN, path, rule, remedy)


def is_colocated(placement: str | None, modules: Mapping[str, Module]) -> bool:
    """Whether modules without offsets share all ranks: as written, or because nobody wrote any parallelism."""
    if placement is not None:
        return placement == "colocated"
    return all(module.parallel is None for module in modules.values())


def _path(name: str) -> Path:
    return ("modules", name)


def _lane_size(parallel: Parallel) -> int:
    return parallel.tp * parallel.cp * parallel.pp


def _grid(parallel: Parallel, num_lanes: int, offset: int) -> Grid:
    sizes = {Axis.TP: parallel.tp, Axis.CP: parallel.cp, Axis.DP: num_lanes, Axis.PP: parallel.pp}
    return Grid(
        rank_offset=offset,
        order=parallel.order,
        sizes=tuple(sizes[axis] for axis in parallel.order),
        expt_tp=parallel.expt_tp,
        ep=parallel.ep,
    )


def _check_coverage(grids: Mapping[str, Grid], world: int | None, micro_size: int, faults: Faults) -> None:
    """Every rank of the world belongs to a module, and no module ends beyond it."""
    end = world if world is not None else max(grid.end for grid in grids.values())
    if end > MAX_RANKS:
        rule = f"the world has at most {MAX_RANKS} ranks, got {end}"
        faults.add(codes.TOO_MANY_RANKS, ("modules",), rule, "choose smaller sizes or offsets")
        return
    for name, grid in grids.items():
        if grid.end > end:
            sizes = " * ".join(str(grid.size_of(axis)) for axis in DENSE_AXES)
            rule = (
                f"rank_offset + tp * cp * dp * pp of {name} <= {end} ranks of the world, "
                f"got {grid.rank_offset} + {sizes} = {grid.end}"
            )
            lanes = (end - grid.rank_offset) // (grid.size // grid.num_lanes)
            smaller = f"`dp: {lanes}` on {name}" if 1 <= lanes < grid.num_lanes else "smaller sizes"
            remedy = f"use {grid.end - end} more ranks, or {smaller}"
            faults.add(codes.BEYOND_WORLD, (*_path(name), "parallel"), rule, remedy)
    idle = _gaps(grids, end)
    if idle:
        total = sum(stop - start for start, stop in idle)
        shown = ", ".join(f"{start}-{stop - 1}" if stop - start > 1 else str(start) for start, stop in idle[:8])
        rule = (
            f"every rank of 0-{end - 1} belongs to a module; {total} do not: {shown}{', ...' if len(idle) > 8 else ''}"
        )
        remedy = _filling(grids, end, micro_size) or "raise dp or pp of a module, shift rank_offset, or use fewer ranks"
        faults.add(codes.IDLE_RANKS, ("cluster",) if world is not None else ("modules",), rule, remedy)


def _filling(grids: Mapping[str, Grid], end: int, micro_size: int) -> str:
    """The dp of one module that fills the world; empty if there is none, or if modules share ranks.

    One that gives every lane of a microbatch as many samples comes first.
    """
    idle = end - sum(grid.size for grid in grids.values())
    if max(grid.end for grid in grids.values()) + idle != end:
        return ""
    lanes = {name: grid.num_lanes + idle * grid.num_lanes / grid.size for name, grid in grids.items()}
    fits = {name: int(num) for name, num in lanes.items() if num.is_integer()}
    even = {name: num for name, num in fits.items() if micro_size % num == 0}
    whole = [f"`dp: {num}` on {name}" for name, num in (even or fits).items()]
    if not whole:
        return ""
    fewer = f"use {end - idle} ranks"
    return f"write {' or '.join(whole[:2])} (or leave that dp out), or {fewer}"


def _gaps(grids: Mapping[str, Grid], end: int) -> list[tuple[int, int]]:
    """The ranges (start, stop) of ranks below `end` that no grid covers."""
    found, covered = [], 0
    for grid in sorted(grids.values(), key=lambda grid: grid.rank_offset):
        if grid.rank_offset > covered:
            found.append((covered, min(grid.rank_offset, end)))
        covered = max(covered, grid.end)
    if covered < end:
        found.append((covered, end))
    return [(start, stop) for start, stop in found if start < stop]
