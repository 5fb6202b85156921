"""A plan's groups are those of megatron-core's HyperCommGrid, and of parallel_state, in the same order."""

from __future__ import annotations

import pytest
from hypothesis import given

from planner import Axis, Batch, Module, Parallel, Spec

from .agreement import EXPERT_KINDS, groups_agree, rank_generator_agrees
from .layouts import MANY, ORDERS, Limits, expert_sizes, planned, specs
from .megatron import Megatron, expert_dims

_ANY = Limits()


@MANY
@given(spec=specs(_ANY))
def test_groups_match_hyper_comm_grid(megatron: Megatron, spec: Spec) -> None:
    plan = planned(spec)
    assert groups_agree(megatron, plan) >= 14 * len(plan.modules)


@MANY
@given(spec=specs(_ANY))
def test_groups_match_rank_generator(megatron: Megatron, spec: Spec) -> None:
    plan = planned(spec)
    assert rank_generator_agrees(megatron, plan) >= 9 * len(plan.modules)


def _language(parallel: Parallel) -> Spec:
    lanes = parallel.dp or 1
    return Spec(
        batch=Batch(global_size=lanes, micro_size=lanes, seq_length=4096),
        modules={"language": Module(parallel=parallel)},
    )


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_every_order_with_every_expert_size(megatron: Megatron, order: tuple[Axis, ...]) -> None:
    parallel = Parallel(tp=2, cp=2, dp=2, pp=3, order=order)
    for expt_tp, ep in expert_sizes(parallel):
        plan = planned(_language(Parallel(tp=2, cp=2, dp=2, pp=3, order=order, expt_tp=expt_tp, ep=ep)))
        assert groups_agree(megatron, plan) > 0
        assert rank_generator_agrees(megatron, plan) > 0


@pytest.mark.parametrize(
    ("order", "dims"),
    [
        ("tp-cp-dp-pp", [("expt_tp", 2), ("ep", 2), ("expt_dp", 2), ("pp", 3)]),
        ("pp-tp-cp-dp", [("pp", 3), ("expt_tp", 2), ("ep", 2), ("expt_dp", 2)]),
        ("tp-pp-cp-dp", [("expt_tp", 2), ("pp", 3), ("ep", 2), ("expt_dp", 2)]),
        ("tp-cp-pp-dp", [("expt_tp", 2), ("ep", 2), ("pp", 3), ("expt_dp", 2)]),
    ],
)
def test_expert_view_keeps_the_stride_of_pp(order: str, dims: list[tuple[str, int]]) -> None:
    parallel = Parallel(tp=2, cp=2, dp=2, pp=3, order=order, expt_tp=2, ep=2)
    assert expert_dims(planned(_language(parallel)).module("language")) == dims


def test_a_wrong_group_is_seen(megatron: Megatron) -> None:
    """The comparison can fail: it tells the expert groups of another module from the plan's."""
    mine = planned(_language(Parallel(tp=2, dp=4, pp=2, expt_tp=2, ep=2)))
    other = planned(_language(Parallel(tp=2, dp=4, pp=2, expt_tp=2, ep=4)))
    with megatron.as_rank(other) as grids:
        theirs = {kind: megatron.expert_groups(grids["language"], axes) for kind, axes in EXPERT_KINDS.items()}
    different = {kind for kind, groups in theirs.items() if list(mine.groups("language", kind)) != groups}
    assert different == set(EXPERT_KINDS) - {"expt_tp"}
