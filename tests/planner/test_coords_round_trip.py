"""Law: within a grid, ranks and coords determine one another, in both views, at any size."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from planner import Plan
from planner.base.axes import DENSE_AXES, EXPERT_AXES, Axis
from planner.layout.ir import Grid
from planner.testing.strategies import ORDERS
from tests.strategies import Case, cases, grids


@given(cases())
def test_coords_of_a_grid_are_all_coords_once(case: Case) -> None:
    for module in case.plan().modules:
        grid = module.grid
        for axes, view in ((DENSE_AXES, grid.dense), (EXPERT_AXES, grid.expert)):
            found = [tuple(view.coords(rank)[axis] for axis in axes) for rank in grid.ranks]
            assert sorted(found) == list(product(*(range(grid.size_of(axis)) for axis in axes)))


@given(grids())
def test_dense_coords_in_mixed_radix_give_the_rank_again(plan: Plan) -> None:
    grid = plan.module("language").grid
    for rank in grid.ranks:
        found, stride = grid.rank_offset, 1
        for axis, size in zip(grid.order, grid.sizes, strict=True):
            found += grid.coord(rank, axis) * stride
            stride *= size
        assert found == rank


@given(grids())
def test_expert_coords_in_mixed_radix_give_the_place_within_the_stage(plan: Plan) -> None:
    grid = plan.module("language").grid
    for stage in range(grid.num_stages):
        members = [rank for rank in grid.ranks if grid.coord(rank, Axis.PP) == stage]
        for place, rank in enumerate(members):
            found, stride = 0, 1
            for axis in (Axis.EXPT_TP, Axis.EP, Axis.EXPT_DP):
                found += grid.coord(rank, axis) * stride
                stride *= grid.size_of(axis)
            assert found == place


@st.composite
def huge(draw: st.DrawFn) -> tuple[Grid, int]:
    """A grid of up to 2^24 ranks, which is too large to list, and one of its ranks."""
    sizes = tuple(draw(st.integers(1, 64)) for _ in DENSE_AXES)
    grid = Grid(rank_offset=draw(st.integers(0, 10**6)), order=draw(st.sampled_from(ORDERS)), sizes=sizes)
    return grid, grid.rank_offset + draw(st.integers(0, grid.size - 1))


@given(huge())
def test_any_rank_of_a_grid_too_large_to_list(place: tuple[Grid, int]) -> None:
    grid, rank = place
    for view in (grid.dense, grid.expert):
        flat, stage = view.locate(rank)
        assert 0 <= stage < grid.num_stages
        assert 0 <= flat < view.num_flat
        assert view.rank(flat, stage) == rank
    coords = grid.dense.coords(rank)
    found = 0
    for axis, size in reversed(list(zip(grid.order, grid.sizes, strict=True))):
        assert 0 <= coords[axis] < size
        found = found * size + coords[axis]
    assert grid.rank_offset + found == rank
