"""Pass: microbatches per step and samples per lane are whole."""

from __future__ import annotations

from collections.abc import Mapping
from math import lcm

from ..base import codes
from ..base.errors import Faults
from ..layout.ir import Grid
from ..spec.sections import Batch

_MOST_TRIED = 512  # multiples of what every dp divides


def check_microbatches(batch: Batch, faults: Faults) -> None:
    """Check that the microbatches per step are a whole number."""
    if batch.global_size % batch.micro_size:
        rule = (
            f"num_microbatches = global_size / micro_size = {batch.global_size} / {batch.micro_size} = "
            f"{batch.global_size / batch.micro_size:g}, must be whole"
        )
        above = -(-batch.global_size // batch.micro_size) * batch.micro_size
        faults.add(
            codes.MICROBATCHES,
            ("batch", "global_size"),
            rule,
            f"use a multiple of {batch.micro_size}, such as {above}",
        )


def check_lanes(batch: Batch, grids: Mapping[str, Grid], faults: Faults) -> None:
    """Check that the samples of each lane are a whole number, at least one."""
    common = lcm(*(grid.num_lanes for grid in grids.values()))
    widest = max(grids, key=lambda name: grids[name].num_lanes)
    if batch.micro_size < grids[widest].num_lanes:
        _per_rank(batch, widest, grids[widest].num_lanes, common, faults)
        return
    for name, grid in grids.items():
        path = ("modules", name, "parallel", "dp")
        if batch.micro_size % grid.num_lanes:
            rule = (
                f"samples per lane of {name} = micro_size / dp = {batch.micro_size} / {grid.num_lanes} = "
                f"{batch.micro_size / grid.num_lanes:g}, must be whole"
            )
            remedy = f"use a micro_size that every dp divides (a multiple of {common}), or change dp of {name}"
            if sizes := _whole_sizes(batch, common):
                nearest = min(sizes, key=lambda size: abs(size - batch.micro_size))
                remedy = f"write `micro_size: {nearest}`, which every dp divides, or change dp of {name}"
            faults.add(codes.LANE_SAMPLES, path, rule, remedy)


def _per_rank(batch: Batch, widest: str, num_lanes: int, common: int, faults: Faults) -> None:
    """A microbatch with less samples than lanes: micro_size was perhaps written per rank, as Megatron-LM means it."""
    rule = (
        f"micro_size counts the samples of the whole model, at least one for each lane: micro_size >= dp of {widest} = "
        f"{num_lanes}, got {batch.micro_size}"
    )
    total, sizes = batch.micro_size * common, _whole_sizes(batch, common)
    if common == num_lanes and total in sizes:
        remedy = f"write `micro_size: {total}`, which is {batch.micro_size} per data-parallel rank of {widest}"
    elif sizes:
        largest = max((size for size in sizes if size <= total), default=sizes[0])
        remedy = f"write `micro_size: {largest}`, which every dp and global_size allow"
    else:
        above = -(-batch.global_size // common) * common
        remedy = f"write a multiple of {common}, such as `micro_size: {common}`, and a global_size that it divides, "
        remedy += f"such as {above}; or choose smaller dp"
    faults.add(codes.LANE_SAMPLES, ("batch", "micro_size"), rule, remedy)


def _whole_sizes(batch: Batch, common: int) -> list[int]:
    """The micro sizes that every dp divides, and that divide global_size, ascending; a few hundred at most."""
    most = min(batch.global_size, _MOST_TRIED * common)
    return [size for size in range(common, most + 1, common) if batch.global_size % size == 0]
