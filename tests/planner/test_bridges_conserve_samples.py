"""Law: after the transfers, the destination lanes hold exactly their samples of what the source lanes held.

Here the microbatch is carried over for real: blocks of numbered samples are moved as the transfers say.
"""

from __future__ import annotations

from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Bridge, Plan
from planner.base.axes import Axis
from tests.strategies import Case, cases, planned, simple


def blocks(plan: Plan, name: str) -> list[list[int]]:
    """The numbers of the samples of each lane of a module, as the batch contract has them."""
    microbatch = list(range(plan.batch_sizes.micro_size))
    grid = plan.module(name).grid
    lanes = {grid.coord(rank, Axis.DP): plan.batch.slice(name, rank) for rank in grid.ranks}
    return [microbatch[lanes[lane]] for lane in range(grid.num_lanes)]


def carried(plan: Plan, bridge: Bridge) -> list[list[int | None]]:
    """The blocks of the destination lanes after every transfer. A place at which nothing arrived holds None."""
    source = blocks(plan, bridge.src)
    arrived: list[list[int | None]] = [[None] * len(block) for block in blocks(plan, bridge.dst)]
    for transfer in bridge.transfers:
        for i in range(transfer.num_samples):
            assert arrived[transfer.dst_lane][transfer.dst_start + i] is None, "a sample arrived twice"
            sample = source[transfer.src_lane][transfer.src_start + i]
            arrived[transfer.dst_lane][transfer.dst_start + i] = sample
    return arrived


@given(cases(min_modules=2))
def test_every_sample_arrives_once_in_its_place(case: Case) -> None:
    plan = case.plan()
    for bridge in plan.bridges:
        assert carried(plan, bridge) == blocks(plan, bridge.dst)


@given(cases(min_modules=2))
def test_every_sample_leaves_once(case: Case) -> None:
    plan = case.plan()
    for bridge in plan.bridges:
        source = blocks(plan, bridge.src)
        left = [
            source[transfer.src_lane][transfer.src_start : transfer.src_start + transfer.num_samples]
            for transfer in bridge.transfers
        ]
        assert sorted(sum(left, [])) == list(range(plan.batch_sizes.micro_size))  # noqa: RUF017  few lanes


@given(cases(min_modules=2))
def test_there_are_no_more_transfers_than_overlaps(case: Case) -> None:
    plan = case.plan()
    for bridge in plan.bridges:
        src, dst = plan.module(bridge.src).grid.num_lanes, plan.module(bridge.dst).grid.num_lanes
        assert len(bridge.transfers) == src + dst - gcd(src, dst)
        assert len({(t.src_lane, t.dst_lane) for t in bridge.transfers}) == len(bridge.transfers)


@given(cases(min_modules=2))
def test_leaders_are_the_last_rank_that_sends_and_the_first_that_receives(case: Case) -> None:
    plan = case.plan()
    for bridge in plan.bridges:
        for transfer in bridge.transfers:
            assert transfer.src_rank == bridge.src_broadcast[transfer.src_lane][-1]
            assert transfer.dst_rank == bridge.dst_broadcast[transfer.dst_lane][0]


@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 3))
def test_any_ratio_of_lanes(num_src: int, num_dst: int, times: int) -> None:
    micro_size = num_src * num_dst * times
    plan = planned(simple(micro_size, images={"dp": num_src}, language={"dp": num_dst}))
    bridge = plan.bridge("images", "language")
    assert carried(plan, bridge) == blocks(plan, "language")


@given(cases(min_modules=2))
def test_both_ends_of_a_transfer_know_of_it(case: Case) -> None:
    plan = case.plan()
    for bridge in plan.bridges:
        sent, received = [], []
        for rank in range(plan.world_size):
            for edge in plan.view(rank).transfers:
                if (edge.src, edge.dst) == (bridge.src, bridge.dst):
                    assert all(transfer.src_rank == rank for transfer in edge.sends)
                    assert all(transfer.dst_rank == rank for transfer in edge.receives)
                    sent += edge.sends
                    received += edge.receives
        by_lanes = sorted(bridge.transfers, key=lambda t: (t.src_lane, t.dst_lane))
        assert sorted(sent, key=lambda t: (t.src_lane, t.dst_lane)) == by_lanes
        assert sorted(received, key=lambda t: (t.src_lane, t.dst_lane)) == by_lanes


@pytest.mark.parametrize(
    ("num_src", "num_dst", "expected"),
    [
        (1, 1, [(0, 0, 0, 0, 6)]),
        (2, 1, [(0, 0, 0, 0, 3), (1, 0, 0, 3, 3)]),
        (1, 2, [(0, 0, 0, 0, 3), (0, 1, 3, 0, 3)]),
        (3, 2, [(0, 0, 0, 0, 2), (1, 0, 0, 2, 1), (1, 1, 1, 0, 1), (2, 1, 0, 1, 2)]),
        (2, 3, [(0, 0, 0, 0, 2), (0, 1, 2, 0, 1), (1, 1, 0, 1, 1), (1, 2, 1, 0, 2)]),
    ],
)
def test_six_samples_by_hand(num_src: int, num_dst: int, expected: list[tuple[int, ...]]) -> None:
    plan = planned(simple(6, images={"dp": num_src}, language={"dp": num_dst}))
    found = plan.bridge("images", "language").transfers
    assert [(t.src_lane, t.dst_lane, t.src_start, t.dst_start, t.num_samples) for t in found] == expected
