"""A plan's transfers, leaders and bridge groups are those of megatron-core's bridge communicators."""

from __future__ import annotations

import pytest
from hypothesis import given

from planner import Axis, Batch, Module, Parallel, Spec

from .agreement import bridges_agree, colocated_bridges_agree, lanes_divide, share_ranks
from .layouts import MANY, ORDERS, Limits, planned, specs
from .megatron import Megatron

_TP_FIRST = tuple(order for order in ORDERS if order.index(Axis.TP) < order.index(Axis.DP))
# What BridgeCommunicator asks for. It is built for every edge and rank, so worlds are small.
_APART = Limits(placements=("disjoint", "shared"), cp=False, divide=True, min_modules=2, max_modules=3, max_ranks=12)
# The same, with any ranks shared. An edge between modules that share none is still bridged in one way.
_OVERLAPPING = Limits(placements=("overlapping",), cp=False, divide=True, min_modules=3, max_ranks=8)
_TOGETHER = Limits(
    placements=("colocated",),
    cp=False,
    pp=False,
    divide=True,
    orders=_TP_FIRST,
    min_modules=2,
    max_modules=3,
    max_ranks=18,
)


@MANY
@given(spec=specs(_APART))
def test_bridges_match(megatron: Megatron, spec: Spec) -> None:
    plan = planned(spec)
    bridged = [edge for edge in plan.edges if not share_ranks(*map(plan.module, edge))]
    assert all(lanes_divide(*map(plan.module, edge)) for edge in bridged)
    assert bridges_agree(megatron, plan) == len(bridged) * plan.world_size > 0


@given(spec=specs(_OVERLAPPING))
def test_bridges_match_where_other_modules_share_ranks(megatron: Megatron, spec: Spec) -> None:
    plan = planned(spec)
    bridged = [edge for edge in plan.edges if not share_ranks(*map(plan.module, edge))]
    assert bridges_agree(megatron, plan) == len(bridged) * plan.world_size


@MANY
@given(spec=specs(_TOGETHER))
def test_colocated_bridges_match(megatron: Megatron, spec: Spec) -> None:
    plan = planned(spec)
    assert colocated_bridges_agree(megatron, plan) == len(plan.edges) * plan.world_size > 0


def _two(images: Parallel, language: Parallel) -> Spec:
    return Spec(
        batch=Batch(global_size=12, micro_size=12, seq_length=4096),
        modules={"images": Module(parallel=images), "language": Module(parallel=language)},
    )


@pytest.mark.parametrize(
    ("images", "language", "transfers"),
    [
        # the last tp rank of the last stage sends, the first of the first stage receives
        ({"tp": 2, "pp": 2, "dp": 2}, {"tp": 2, "pp": 2, "dp": 2}, [(5, 8), (7, 10)]),
        ({"tp": 2, "dp": 3}, {"tp": 2}, [(1, 6), (3, 6), (5, 6)]),  # fan-in
        ({"tp": 2}, {"tp": 2, "dp": 3}, [(1, 2), (1, 4), (1, 6)]),  # fan-out
    ],
)
def test_leaders(
    megatron: Megatron, images: dict[str, int], language: dict[str, int], transfers: list[tuple[int, int]]
) -> None:
    plan = planned(_two(Parallel(**images), Parallel(**language)))
    assert [(t.src_rank, t.dst_rank) for t in plan.bridge("images", "language").transfers] == transfers
    assert bridges_agree(megatron, plan) == plan.world_size


@pytest.mark.parametrize(
    ("images", "language", "groups"),
    [
        ({"tp": 2, "dp": 4}, {"tp": 4, "dp": 2}, [(0, 2), (1, 3), (4, 6), (5, 7)]),  # fan-in
        ({"tp": 4, "dp": 2}, {"tp": 2, "dp": 4}, [(0, 2), (1, 3), (4, 6), (5, 7)]),  # fan-out
        ({"tp": 2, "dp": 4}, {"tp": 2, "dp": 4}, []),
    ],
)
def test_gather_groups(
    megatron: Megatron, images: dict[str, int], language: dict[str, int], groups: list[tuple[int, ...]]
) -> None:
    here = {"rank_offset": 0}
    plan = planned(_two(Parallel(**images, **here), Parallel(**language, **here)))
    assert list(plan.groups("images->language", "bridge_gather")) == groups
    assert colocated_bridges_agree(megatron, plan) == plan.world_size


def test_what_megatron_refuses_is_planned(megatron: Megatron) -> None:
    """With cp > 1, or dp sizes that do not divide, there is nothing to compare, and no agreement is claimed."""
    for images, error in ((Parallel(dp=3), ValueError), (Parallel(cp=2, dp=2), AssertionError)):
        plan = planned(_two(images, Parallel(dp=2)))
        assert bridges_agree(megatron, plan) == 0
        with megatron.as_rank(plan) as grids, pytest.raises(error):
            megatron.bridge.BridgeCommunicator(grids["images"], grids["language"])
