"""Law: a rank's view is the plan, seen from that rank: nothing added, nothing left out, nothing reordered."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given

from planner import RankRole
from planner.base.axes import Axis
from tests.strategies import Case, cases, planned, simple


@given(cases(max_modules=4))
def test_groups_are_those_of_the_creation_order_that_hold_the_rank(case: Case) -> None:
    plan = case.plan()
    created = list(plan.creation_order())
    for rank in range(plan.world_size):
        view = plan.view(rank)
        assert list(view.groups) == [group for group in created if rank in group.ranks]
        for group in view.groups:
            assert group.ranks == plan.groups(group.owner, group.kind)[group.index]


@given(cases())
def test_transfers_are_those_of_the_bridges_that_name_the_rank(case: Case) -> None:
    plan = case.plan()
    for rank in range(plan.world_size):
        expected = []
        for bridge in plan.bridges:
            sends = tuple(transfer for transfer in bridge.transfers if transfer.src_rank == rank)
            receives = tuple(transfer for transfer in bridge.transfers if transfer.dst_rank == rank)
            if sends or receives:
                expected.append((bridge.src, bridge.dst, sends, receives))
        found = plan.view(rank).transfers
        assert [(edge.src, edge.dst, edge.sends, edge.receives) for edge in found] == expected


@given(cases())
def test_role_slices_and_stages_are_the_plan_s(case: Case) -> None:
    plan = case.plan()
    for rank in range(plan.world_size):
        view = plan.view(rank)
        held = [module.name for module in plan.modules if rank in module.ranks]
        assert view.role == plan.role(rank) == RankRole.build(plan, rank)
        assert view.role.mode is plan.layout
        for mapping in (view.role.modules, view.coords, view.stages, view.data, view.batch_slices):
            assert list(mapping) == held
        for name in held:
            stage = view.coords[name][Axis.PP]
            assert view.batch_slices[name] == plan.batch.slice(name, rank)
            assert view.stages[name].stage == stage
            assert view.role.is_first_stage(name) == (stage == 0)
            assert view.role.is_last_stage(name) == (stage == plan.module(name).num_stages - 1)


@given(cases())
def test_positions_grow_along_every_pipeline_and_every_edge(case: Case) -> None:
    """Warm-up falls from stage to stage. Otherwise a stage would wait for a microbatch that was never started."""
    plan = case.plan()
    views = [plan.view(rank) for rank in range(plan.world_size)]
    for view in views:
        assert 0 <= view.position < view.total_stages == plan.pipeline.num_stages
        assert 0 <= view.num_warmup_microbatches < plan.pipeline.num_stages
    if plan.pipeline.cycle:
        return  # no schedule runs such a plan
    for module in plan.modules:
        for pipeline in plan.groups(module.name, "pp"):
            if all(len(views[rank].coords) == 1 for rank in pipeline):
                first = views[pipeline[0]].position
                assert [views[rank].position for rank in pipeline] == list(range(first, first + len(pipeline)))
    for one, other in plan.pipeline.hops:  # modules that share some ranks are one stage on all of theirs
        for transfer in plan.bridge(one, other).transfers:
            src, dst = views[transfer.src_rank], views[transfer.dst_rank]
            if len(src.coords) == len(dst.coords) == 1:
                assert src.position < dst.position


@given(cases())
def test_lanes_of_a_module_tile_the_microbatch(case: Case) -> None:
    plan = case.plan()
    for module in plan.modules:
        slices = {(s.start, s.stop) for s in (plan.batch.slice(module.name, rank) for rank in module.ranks)}
        assert len(slices) == module.grid.num_lanes
        edges = sorted(slices)
        assert edges[0][0] == 0
        assert edges[-1][1] == plan.batch_sizes.micro_size
        assert all(one[1] == other[0] for one, other in pairwise(edges))


@given(cases(max_modules=3))
def test_ranks_outside_the_world_have_no_view(case: Case) -> None:
    plan = case.plan()
    for rank in (-1, plan.world_size, True, "0", None, 0.0):
        with pytest.raises(ValueError, match="outside the world"):
            plan.view(rank)
        with pytest.raises(ValueError, match="outside the world"):
            plan.role(rank)


def test_data_needs_of_a_chain_by_hand() -> None:
    """The chain is encoder -> language -> generator, with two stages each: DESIGN, semantics 7."""
    spec = simple(images={"pp": 2}, language={"pp": 3}, speech={"pp": 2})
    plan = planned(type(spec)(batch=spec.batch, modules=spec.modules, topology={"language": ["speech"]}))
    assert [sorted(next(iter(plan.view(rank).data.values()))) for rank in range(7)] == [
        ["input_ids", "modality_inputs"],
        ["input_ids"],
        ["input_ids", "position_ids"],
        ["position_ids"],
        ["labels", "loss_mask", "position_ids"],
        ["input_ids"],
        ["input_ids", "modality_inputs"],
    ]
    assert [plan.view(rank).num_warmup_microbatches for rank in range(7)] == [6, 5, 4, 3, 2, 1, 0]


def test_warm_up_of_a_short_encoder_beside_a_long_one_by_hand() -> None:
    """The longest path of stages counts: both encoders feed language, which waits for the deeper one."""
    plan = planned(simple(images={"pp": 3}, audio={"pp": 1}, language={"pp": 2}))
    assert [plan.view(rank).position for rank in range(6)] == [0, 1, 2, 0, 3, 4]
    assert plan.pipeline.num_stages == 5
    assert [plan.view(rank).stages.get("language") is not None for rank in range(6)] == [False] * 4 + [True] * 2
    firsts = [next(iter(plan.view(rank).stages.values())).is_model_first for rank in range(6)]
    lasts = [next(iter(plan.view(rank).stages.values())).is_model_last for rank in range(6)]
    assert firsts == [True, False, False, True, False, False]
    assert lasts == [False, False, False, False, False, True]
