"""Law: faults that other systems have had do not happen here. Each test is named after the issue of one that a plan
settles; those of steps, gradients and checkpoints are tested with the executor.
"""

from __future__ import annotations

import json
from itertools import combinations

import attrs
import pytest

from planner import (
    Cluster,
    Freeze,
    FrozenMap,
    Module,
    ModuleLayout,
    Output,
    Parallel,
    Plan,
    PlanError,
    Spec,
    compile_spec,
    parse_spec,
)
from tests.strategies import planned, proven, simple


def codes_of(plan: Plan) -> list[str]:
    return [str(fault.code) for fault in plan.warnings]


# ---- groups


def test_bridge_4985_embedding_groups_for_every_pp_group() -> None:
    """In the published layout TP4 · PP2 · DP2 pipelines mixed their embeddings. Eight pipelines have eight pairs."""
    plan = planned(simple(language={"tp": 4, "pp": 2, "dp": 2}))
    assert plan.groups("language", "embd") == [(rank, rank + 8) for rank in range(8)]
    assert plan.groups("language", "pos_embd") == [(rank,) for rank in range(8)]
    for rank in range(16):
        assert rank in plan.view(rank).group("language", "embd").ranks


def test_bridge_4985_logical_groups_reduce_apart() -> None:
    """Groups [0, 2] and [1, 3] sum their ranks, counted from 1, to 4 and 6, and never both to 5."""
    plan = planned(simple(language={"dp": 2, "pp": 2}))
    groups = plan.groups("language", "embd")
    assert groups == [(0, 2), (1, 3)]
    assert [sum(rank + 1 for rank in group) for group in groups] == [4, 6]
    held = [plan.view(rank).group("language", "embd").ranks for rank in range(4)]
    assert held == [(0, 2), (1, 3), (0, 2), (1, 3)]


def test_megatron_lm_5370_bridge_groups_are_in_the_plan_and_both_ends_issue_the_same() -> None:
    """Nothing is left to be created lazily, and no lane broadcasts more often than another of its module."""
    plan = planned(simple(images={"tp": 2, "dp": 3}, language={"tp": 2, "dp": 2, "pp": 2}))
    created = {(group.owner, str(group.kind)) for group in plan.creation_order()}
    assert {("images->language", kind) for kind in ("bridge_src", "bridge_dst", "bridge_p2p")} <= created
    views = [plan.view(rank) for rank in range(plan.world_size)]
    sent = [transfer for view in views for edge in view.transfers for transfer in edge.sends]
    received = [transfer for view in views for edge in view.transfers for transfer in edge.receives]
    assert sorted(sent, key=repr) == sorted(received, key=repr)
    for view in views:
        takes_part = all(stage.stage == 0 for stage in view.stages.values())  # images has no other stage
        assert len(view.broadcast_groups) == int(takes_part)


def test_megatron_lm_5214_and_cornstarch_76_members_alone_create_groups_in_one_order() -> None:
    """A rank walks only its own groups, and any two ranks agree on the order of those that they share."""
    plan = planned(simple(images={"tp": 2, "dp": 2}, audio={"dp": 4}, language={"tp": 2, "pp": 2, "dp": 2}))
    views = [plan.view(rank) for rank in range(plan.world_size)]
    assert sum(len(view.groups) for view in views) < plan.world_size * plan.num_groups / 4
    for one, other in combinations(views, 2):
        shared = [group.creation_index for group in one.groups if other.rank in group.ranks]
        assert shared == [group.creation_index for group in other.groups if one.rank in group.ranks]
        assert shared == sorted(shared)


def test_bridge_head_no_group_is_created_twice() -> None:
    """`build_infra` ran three times per start. In a plan, every group stands once."""
    plan = planned(simple(images={"dp": 2}, language={"tp": 2}))
    created = [(group.owner, group.kind, group.ranks) for group in plan.creation_order()]
    assert len(created) == len(set(created)) == plan.num_groups


# ---- bridges


def test_megatron_lm_5234_every_edge_has_its_own_p2p_group() -> None:
    """It holds the leaders of the edge and nobody else, so it is never the group of the world."""
    plan = planned(simple(images={"tp": 2, "dp": 2}, audio={"dp": 2}, language={"tp": 2, "pp": 2}))
    for bridge in plan.bridges:
        (group,) = plan.groups(bridge.name, "bridge_p2p")
        leaders = {rank for transfer in bridge.transfers for rank in (transfer.src_rank, transfer.dst_rank)}
        assert set(group) == leaders
        assert len(group) < plan.world_size
    assert plan.groups("images->language", "bridge_p2p") == [(1, 3, 6)]
    assert plan.groups("audio->language", "bridge_p2p") == [(4, 5, 6)]


def test_megatron_lm_4021_an_edge_declares_its_tensor_dims_and_batch_dim() -> None:
    """A tensor of two dims was split along hidden. Here its form is part of the plan, and must make sense."""
    spec = simple(images={"dp": 2}, language={"dp": 2})
    flat = Module(parallel={"dp": 2}, output={"tensor_dims": 2, "tokens_per_sample": 576})
    deep = Module(parallel={"dp": 2}, output={"tensor_dims": 3, "batch_dim": 1})
    for module in (flat, deep):
        plan = planned(attrs.evolve(spec, modules={**spec.modules, "images": module}))
        assert plan.module("images").output == module.output
        assert Plan.from_json(plan.to_json()).module("images").output == module.output
    with pytest.raises(PlanError, match=r"S107.*samples in dim 0"):
        Output(tensor_dims=2, batch_dim=1)
    with pytest.raises(PlanError, match="S104"):
        Output(tensor_dims=4)


def test_megatron_lm_5062_sample_boundaries_go_with_the_tensor_in_every_direction() -> None:
    """Even if tokens per sample vary, fan-in and fan-out say which samples go where."""
    for num_src, num_dst in ((4, 2), (2, 4), (3, 2)):
        plan = planned(simple(images={"dp": num_src}, language={"dp": num_dst}))
        assert plan.module("images").output.tokens_per_sample is None
        for rank in plan.module("images").ranks:
            assert "input_ids" in plan.view(rank).data["images"]
        per_lane = dict.fromkeys(range(num_dst), 0)
        for transfer in plan.bridge("images", "language").transfers:
            assert transfer.dst_start == per_lane[transfer.dst_lane]
            per_lane[transfer.dst_lane] += transfer.num_samples
        assert set(per_lane.values()) == {12 // num_dst}


def test_megatron_core_two_outgoing_edges_are_two_bridges() -> None:
    """megatron-core 0.19 keeps only the gradient of the last edge. Two bridges make both gradients visible."""
    spec = simple(images={"dp": 2}, audio={"dp": 2}, language={"dp": 2})
    plan = planned(attrs.evolve(spec, topology={"images": ["language", "audio"], "audio": ["language"]}))
    assert [(bridge.src, bridge.dst) for bridge in plan.bridges] == [
        ("images", "audio"),
        ("images", "language"),
        ("audio", "language"),
    ]
    for rank in plan.module("images").ranks:
        edges = plan.view(rank).transfers
        assert [(edge.src, edge.dst) for edge in edges] == [("images", "audio"), ("images", "language")]
        assert all(edge.sends and not edge.receives for edge in edges)


def test_megatron_core_bridges_with_context_parallelism_plan() -> None:
    plan = planned(simple(images={"cp": 2, "dp": 2}, language={"tp": 2, "cp": 2}))
    bridge = plan.bridge("images", "language")
    assert bridge.src_broadcast == [(0, 1), (2, 3)]
    assert bridge.dst_broadcast == [(4, 5, 6, 7)]
    assert [(transfer.src_rank, transfer.dst_rank) for transfer in bridge.transfers] == [(1, 4), (3, 4)]


# ---- batch


def test_bridge_2956_all_modules_draw_the_same_samples() -> None:
    """There is one sampler: whatever its dp, the slices of every module make up the same microbatch."""
    plan = planned(simple(images={"dp": 4, "tp": 2}, audio={"dp": 3}, language={"dp": 2, "pp": 2}))
    for module in plan.modules:
        held = {sample for rank in module.ranks for sample in range(12)[plan.batch.slice(module.name, rank)]}
        assert held == set(range(12))
        first = plan.view(module.ranks[0]).batch_slices[module.name]
        assert first.start == 0


# ---- what is refused, and what is not


@pytest.mark.parametrize("tp", [1, 3, 5, 6, 7])
def test_bridge_head_tp_need_not_be_a_power_of_two(tp: int) -> None:
    plan = planned(simple(images={"tp": tp, "dp": 2}, language={"tp": tp, "pp": 2}))
    assert plan.groups("language", "tp")[0] == tuple(range(2 * tp, 3 * tp))


def test_bridge_head_dp_sizes_need_not_divide() -> None:
    """3 lanes feed 2, as do 4, and 3 stand beside 4 without an edge between them."""
    plan = planned(simple(images={"dp": 3}, audio={"dp": 4}, language={"dp": 2}))
    assert len(plan.bridge("images", "language").transfers) == 4
    assert len(plan.bridge("audio", "language").transfers) == 4


def test_bridge_head_the_documented_example_that_omits_dp_plans() -> None:
    """It failed with "world_size must be provided". Here dp follows from the world if that is known, and else is 1."""
    text = """
batch: {global_size: 96, micro_size: 12, seq_length: 4096}
modules:
  language: {parallel: {tp: 2, pp: 2}}
  images: {parallel: {tp: 2, dp: 2}}
"""
    alone = planned(parse_spec(text))
    assert (alone.world_size, alone.module("language").grid.num_lanes) == (8, 1)
    on_two_nodes = planned(parse_spec(text + "cluster: {nodes: 2, gpus_per_node: 8}\n"))
    assert (on_two_nodes.world_size, on_two_nodes.module("language").grid.num_lanes) == (16, 3)
    told = planned(parse_spec(text), world_size=12)
    assert (told.world_size, told.module("language").grid.num_lanes) == (12, 2)


def test_bridge_4392_context_and_expert_axes_per_module_also_colocated() -> None:
    spec = simple(images={"cp": 2, "dp": 4}, language={"tp": 2, "cp": 2, "dp": 2, "ep": 4, "expt_tp": 2})
    plan = planned(attrs.evolve(spec, placement="colocated"))
    assert plan.layout is ModuleLayout.COLOCATED
    assert plan.groups("language", "tp_ep") == [tuple(range(8))]
    assert plan.groups("images", "cp") == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_bridge_2879_frozen_parts_stay_in_the_plan() -> None:
    """Frozen parts keep their ranks, groups and bridges. The executor reads from the plan what is frozen."""
    spec = simple(images={"tp": 2}, language={"tp": 2})
    freeze = Freeze(encoder=True, projection=True)
    frozen = planned(
        attrs.evolve(spec, modules={**spec.modules, "images": Module(parallel=Parallel(tp=2), freeze=freeze)})
    )
    trained = planned(spec)
    assert frozen.module("images").freeze == freeze
    assert frozen.module("images").freeze.all
    assert proven(Plan.from_json(frozen.to_json())).module("images").freeze == freeze
    assert list(frozen.creation_order()) == list(trained.creation_order())
    assert frozen.digest != trained.digest


# ---- start-up


@pytest.mark.parametrize(
    ("cluster", "num_ranks", "warns"),
    [
        (Cluster(nodes=2, gpus_per_node=8), 15, True),
        (Cluster(gpus_per_node=8), 15, True),
        (Cluster(nodes=2, gpus_per_node=8), 16, False),
        (Cluster(nodes=1, gpus_per_node=8), 7, False),
        (None, 15, False),
    ],
)
def test_nccl_2385_uneven_nodes_warn(cluster: Cluster | None, num_ranks: int, warns: bool) -> None:
    """With 7 ranks on one node and 8 on another, NCCL deadlocked at its start."""
    spec = Spec(
        cluster=cluster,
        batch={"global_size": 2 * num_ranks, "micro_size": 2 * num_ranks, "seq_length": 64},
        modules=FrozenMap({"language": Module(parallel={"dp": num_ranks})}),
    )
    plan = planned(spec, world_size=num_ranks)
    assert codes_of(plan) == (["W002"] if warns else [])
    if warns:
        with pytest.raises(PlanError, match=r"world % gpus_per_node = 15 % 8 = 0, got 7"):
            compile_spec(spec, world_size=num_ranks, strict=True)


def test_bridge_4651_another_version_of_the_plan_is_refused_by_name() -> None:
    """A KeyError for "View 'expert'" told nobody that two versions had met."""
    fields = json.loads(planned(simple(language={"tp": 2})).to_json())
    fields["mimo_plan"] += 1
    with pytest.raises(PlanError, match=r"J002.*mimo_plan = 1, got 2") as caught:
        Plan.from_json(json.dumps(fields))
    assert [str(fault.code) for fault in caught.value.faults] == ["J002"]
