"""Comparisons of a plan with megatron-core: to the questions that both can answer, both give the same answer.

Each function compares one class of megatron-core with one plan, and returns how many answers it compared, so that a
test can tell agreement from silence.
"""

from __future__ import annotations

from typing import Any

import attrs

from planner import Axis, Bridge, ModuleLayout, ModulePlan, Plan, RankRole
from planner.layout.dag import stages_before
from planner.layout.ir import GroupKind, Groups

from .megatron import FakeGroup, Megatron, outgoing

TP, CP, DP, PP = Axis.TP, Axis.CP, Axis.DP, Axis.PP
EXPT_TP, EP, EXPT_DP = Axis.EXPT_TP, Axis.EP, Axis.EXPT_DP

# DESIGN, semantics 3: kind -> axes in megatron-core's `get_rank_enum`
DENSE_KINDS: dict[str, tuple[Axis, ...]] = {
    "tp": (TP,),
    "cp": (CP,),
    "pp": (PP,),
    "dp": (DP,),
    "dp_cp": (DP, CP),
    "tp_cp": (TP, CP),
    "tp_dp_cp": (TP, DP, CP),
    "mp": (TP, PP),
    "intra_dist_opt": (TP, CP, DP, PP),
}
EXPERT_KINDS: dict[str, tuple[Axis, ...]] = {
    "ep": (EP,),
    "expt_tp": (EXPT_TP,),
    "expt_dp": (EXPT_DP,),
    "tp_ep": (EXPT_TP, EP),
    "tp_ep_pp": (EXPT_TP, EP, PP),
}
# What parallel_state's expert RankGenerator calls the axes of the expert view.
_EXPERT_TOKENS = {EXPT_TP: "tp", EP: "ep", EXPT_DP: "dp", PP: "pp"}


# ---- groups


def groups_agree(megatron: Megatron, plan: Plan) -> int:
    """All groups of every module are those of HyperCommGrid, in the same order."""
    compared = 0
    with megatron.as_rank(plan) as grids:
        for module in plan.modules:
            expected = _hyper_comm_grid_groups(megatron, grids[module.name])
            if module.is_language:
                expected |= _embedding_groups(megatron, expected["pp"])
            assert {family.kind for family in plan.families if family.owner == module.name} == set(expected)
            for kind, groups in expected.items():
                _groups_equal(plan.groups(module.name, kind), groups)
                compared += len(groups)
            _ranks_agree(plan, module, expected)
    return compared


def _groups_equal(groups: Groups, expected: list[tuple[int, ...]]) -> None:
    """Groups are equal both when walked and when asked for by index, which the plan computes in different ways."""
    assert list(groups) == expected
    assert [groups[i] for i in range(len(groups))] == expected


def _ranks_agree(plan: Plan, module: ModulePlan, expected: dict[str, list[tuple[int, ...]]]) -> None:
    """A rank's view holds exactly the groups that it is in, with their indices, in the order of kinds."""
    for rank in module.ranks:
        mine = [group for group in plan.view(rank).groups if group.owner == module.name]
        assert [(group.kind.value, group.index, group.ranks) for group in mine] == [
            (kind, index, ranks)
            for kind, groups in expected.items()
            for index, ranks in enumerate(groups)
            if rank in ranks
        ]


def _hyper_comm_grid_groups(megatron: Megatron, grid: Any) -> dict[str, list[tuple[int, ...]]]:
    dense = {kind: megatron.dense_groups(grid, axes) for kind, axes in DENSE_KINDS.items()}
    return dense | {kind: megatron.expert_groups(grid, axes) for kind, axes in EXPERT_KINDS.items()}


def _embedding_groups(megatron: Megatron, pipelines: list[tuple[int, ...]]) -> dict[str, list[tuple[int, ...]]]:
    state = megatron.parallel_state
    return {
        "embd": [tuple(state.default_embedding_ranks(list(ranks))) for ranks in pipelines],
        "pos_embd": [tuple(state.default_position_embedding_ranks(list(ranks))) for ranks in pipelines],
    }


def rank_generator_agrees(megatron: Megatron, plan: Plan) -> int:
    """All groups are those of parallel_state: dense ones for any order, expert ones if pp is slowest, its default."""
    compared = 0
    for module in plan.modules:
        dense = megatron.rank_generator(module)
        asked = [(dense, kind, "-".join(axes)) for kind, axes in DENSE_KINDS.items()]
        if module.grid.order[-1] is PP:
            expert = megatron.expert_rank_generator(module)
            tokens = {kind: [_EXPERT_TOKENS[axis] for axis in axes] for kind, axes in EXPERT_KINDS.items()}
            asked += [(expert, kind, "-".join(names)) for kind, names in tokens.items()]
        for generator, kind, token in asked:
            groups = [tuple(group) for group in generator.get_ranks(token)]
            _groups_equal(plan.groups(module.name, kind), groups)
            compared += len(groups)
    return compared


# ---- roles


def has_comparable_roles(plan: Plan) -> bool:
    """Whether a role means the same to megatron-core as to the plan.

    megatron-core has no MIXED layout (it calls it NON_COLOCATED), and it calls every stage of a colocated module first
    and last, because it has no colocated pipelines.
    """
    if plan.layout is ModuleLayout.COLOCATED:
        return all(module.num_stages == 1 for module in plan.modules)
    return plan.layout is ModuleLayout.NON_COLOCATED


def roles_agree(megatron: Megatron, plan: Plan) -> int:
    """The modules, stage flags, mode and properties of every rank are those of RankRole."""
    assert has_comparable_roles(plan)
    names = [module.name for module in plan.modules]
    for rank in range(plan.world_size):
        ours, theirs = plan.role(rank), megatron.role_of(plan, rank)
        assert RankRole.build(plan, rank) == ours == plan.view(rank).role
        assert ours.mode.name == theirs.mode.name
        assert stage_flags(ours) == stage_flags(theirs), rank
        if plan.layout is ModuleLayout.NON_COLOCATED:  # if colocated, megatron-core puts language last
            assert list(ours.modules) == list(theirs.modules)
        for flag in ("has_modality_modules", "has_language_module", "modality_module_names"):
            assert getattr(ours, flag) == getattr(theirs, flag), (rank, flag)
        for name in (*names, "no such module"):
            assert ours.is_first_stage(name) == theirs.is_first_stage(name), (rank, name)
            assert ours.is_last_stage(name) == theirs.is_last_stage(name), (rank, name)
    return plan.world_size


def stage_flags(role: Any) -> dict[str, tuple[bool, bool]]:
    return {name: (info.is_first_stage, info.is_last_stage) for name, info in role.modules.items()}


# ---- bridges


def share_ranks(src: ModulePlan, dst: ModulePlan) -> bool:
    return bool(set(src.ranks) & set(dst.ranks))


def lanes_divide(src: ModulePlan, dst: ModulePlan) -> bool:
    """Whether both bridges of megatron-core could be built: cp is 1, and one dp divides the other."""
    one, other = src.grid.size_of(DP), dst.grid.size_of(DP)
    without_cp = src.grid.size_of(CP) == dst.grid.size_of(CP) == 1
    return without_cp and (one % other == 0 or other % one == 0)


def bridges_agree(megatron: Megatron, plan: Plan) -> int:
    """Every edge that BridgeCommunicator can bridge is as it says, built as each rank of the world."""
    compared = 0
    for bridge in plan.bridges:
        src, dst = plan.module(bridge.src), plan.module(bridge.dst)
        if share_ranks(src, dst) or not lanes_divide(src, dst):
            continue
        for rank in range(plan.world_size):
            with megatron.as_rank(plan, rank) as grids:
                made = megatron.bridge.BridgeCommunicator(grids[src.name], grids[dst.name])
            _comm_map_agrees(made, bridge)
            _boundary_agrees(made, plan, bridge)
            _rank_agrees(made, plan, bridge, rank)
            compared += 1
    return compared


def _comm_map_agrees(made: Any, bridge: Bridge) -> None:
    """The senders and receivers of an edge are the same, and so are the peers of each, in order."""
    sends: dict[int, list[int]] = {}
    receives: dict[int, list[int]] = {}
    for transfer in bridge.transfers:
        sends.setdefault(transfer.src_rank, []).append(transfer.dst_rank)
        receives.setdefault(transfer.dst_rank, []).append(transfer.src_rank)
    senders = {rank: info for rank, info in made.comm_map.items() if info.role.name == "SENDER"}
    receivers = {rank: info for rank, info in made.comm_map.items() if info.role.name == "RECEIVER"}
    assert sends == {rank: info.send_to_ranks for rank, info in senders.items()}
    assert receives == {rank: info.recv_from_ranks for rank, info in receivers.items()}
    for rank, info in made.comm_map.items():
        if rank not in senders and rank not in receivers:
            assert (info.send_to_ranks, info.recv_from_ranks) == ([], [])
    assert _leaders(bridge, "src") == made.src_tp_leaders
    assert _leaders(bridge, "dst") == made.dest_tp_leaders


def _leaders(bridge: Bridge, side: str) -> list[int]:
    """The leaders of one end of an edge, in the order of its lanes."""
    found = {getattr(t, f"{side}_lane"): getattr(t, f"{side}_rank") for t in bridge.transfers}
    return [found[lane] for lane in sorted(found)]


def _boundary_agrees(made: Any, plan: Plan, bridge: Bridge) -> None:
    """The ranks of each lane's boundary stage are the same, and so is the group of all leaders."""
    sides = (
        (GroupKind.BRIDGE_SRC, bridge.src_broadcast, made.src_grid, True),
        (GroupKind.BRIDGE_DST, bridge.dst_broadcast, made.dest_grid, False),
    )
    for kind, broadcast, grid, is_src in sides:
        expected = [tuple(ranks) for ranks in made.get_boundary_pp_stage_ranks(grid, is_src=is_src)]
        _groups_equal(broadcast, expected)
        _groups_equal(plan.groups(bridge.name, kind), expected)
    leaders = tuple(sorted({*made.src_tp_leaders, *made.dest_tp_leaders}))
    _groups_equal(plan.groups(bridge.name, GroupKind.BRIDGE_P2P), [leaders])


def _rank_agrees(made: Any, plan: Plan, bridge: Bridge, rank: int) -> None:
    """One rank is told of the same groups, the same leaders of its lanes, and the same transfers."""
    view = plan.view(rank)
    groups = {group.kind: group.ranks for group in view.groups if group.owner == bridge.name}
    theirs = {
        GroupKind.BRIDGE_SRC: made.src_grid_broadcast_pg,
        GroupKind.BRIDGE_DST: made.dest_grid_broadcast_pg,
        GroupKind.BRIDGE_P2P: made.bridge_pg,
    }
    assert groups == {kind: group.ranks for kind, group in theirs.items() if isinstance(group, FakeGroup)}
    assert groups.get(GroupKind.BRIDGE_SRC, ()) == tuple(made.src_grid_broadcast_ranks)
    assert groups.get(GroupKind.BRIDGE_DST, ()) == tuple(made.dest_grid_broadcast_ranks)
    for name, side, leader in (
        (bridge.src, "src", made.src_local_leader_rank),
        (bridge.dst, "dst", made.dest_local_leader_rank),
    ):
        lane = view.coords[name][DP] if name in view.coords else None
        assert leader == (None if lane is None else _leaders(bridge, side)[lane])
    mine = [found for found in view.transfers if (found.src, found.dst) == (bridge.src, bridge.dst)]
    info = made.comm_map.get(rank)  # absent if the rank is in neither module
    assert [t.dst_rank for found in mine for t in found.sends] == (info.send_to_ranks if info else [])
    assert [t.src_rank for found in mine for t in found.receives] == (info.recv_from_ranks if info else [])


def colocated_bridges_agree(megatron: Megatron, plan: Plan) -> int:
    """The gather groups of every edge that ColocatedBridgeCommunicator can bridge are the ones that it makes.

    Limits: megatron-core asks for the same ranks on both ends, pp 1, cp 1 and dp sizes that divide. It gathers only at
    the end with more lanes, which holds all samples of a block if tp varies faster than dp.
    """
    compared = 0
    for bridge in plan.bridges:
        src, dst = plan.module(bridge.src), plan.module(bridge.dst)
        tp_first = all(m.grid.order.index(TP) < m.grid.order.index(DP) for m in (src, dst))
        one_stage = src.num_stages == dst.num_stages == 1
        if src.ranks != dst.ranks or not (one_stage and tp_first and lanes_divide(src, dst)):
            continue
        expected = None
        for rank in src.ranks:
            with megatron.as_rank(plan, rank) as grids:
                made = megatron.colocated.ColocatedBridgeCommunicator(grids[src.name], grids[dst.name])
            expected = [tuple(ranks) for ranks in made.gather_group_ranks]
            mine = [group for group in plan.view(rank).groups if group.owner == bridge.name]
            assert [group.ranks for group in mine] == ([made.gather_pg.ranks] if made.gather_pg else [])
            compared += 1
        _groups_equal(plan.groups(bridge.name, GroupKind.BRIDGE_GATHER), expected or [])
        assert bool(expected) == (src.grid.size_of(DP) != dst.grid.size_of(DP))
    return compared


# ---- stages


def stages_agree(megatron: Megatron, plan: Plan) -> int:
    """The length of the longest path of modules and the place of every rank on it are the same, for any layout.

    They are the pipeline that runs, and the positions of ranks in it, if no modules run in one pass (`counts_alike`).
    """
    count = megatron.multimodule.MultiModulePipelineCommunicator.compute_total_pipeline_stages
    topology = outgoing(plan)
    with megatron.as_rank(plan) as grids:
        before = stages_before(plan.edges, {module.name: module.num_stages for module in plan.modules})
        total = max(before[module.name] + module.num_stages for module in plan.modules)
        assert total == count(topology, grids)
        assert plan.pipeline.num_stages == total or not counts_alike(plan)
        for rank in range(plan.world_size):
            first = next(module.name for module in plan.modules if rank in module.ranks)
            place = count(topology, grids, rank=rank, module_name=first)
            view = plan.view(rank)
            assert before[first] + view.stages[first].stage + 1 == place, rank
            assert view.position + 1 == place or not counts_alike(plan), rank
    return 1 + plan.world_size


def counts_alike(plan: Plan) -> bool:
    """Whether megatron-core counts the pipeline that runs: it counts modules of one pass one by one."""
    return plan.layout is ModuleLayout.NON_COLOCATED and not plan.pipeline.shared


def is_constructible(plan: Plan) -> bool:
    """Whether megatron-core can build the communicator of the whole pipeline."""
    return all(lanes_divide(plan.module(src), plan.module(dst)) for src, dst in plan.edges)


def communicators_agree(megatron: Megatron, plan: Plan) -> int:
    """Built as every rank, MultiModulePipelineCommunicator has the same stages of the model and of each module."""
    assert is_constructible(plan)
    for rank in range(plan.world_size):
        view = plan.view(rank)
        with megatron.as_rank(plan, rank) as grids:
            made = megatron.communicator(plan, grids)
            total, current = made.total_stages, made.current_stage
        if counts_alike(plan):
            assert (view.total_stages, view.position) == (total, current)
            # schedules.py: the number of warm-up microbatches is that of later stages
            assert view.num_warmup_microbatches == total - current - 1
        assert made.is_pp_first_stage == any(stage.is_model_first for stage in view.stages.values())
        assert made.is_pp_last_stage == any(stage.is_model_last for stage in view.stages.values())
        assert list(made.rank_module_map) == list(view.stages)
        for name, info in made.rank_module_map.items():
            stage = view.stages[name]
            assert (stage.stage, stage.num_stages) == (info.pp_rank, info.pp_size)
            assert stage.is_model_first == (info.pp_rank == 0 and made._is_source_module(name))
            is_last = info.pp_rank == info.pp_size - 1
            assert stage.is_model_last == (is_last and made._is_sink_module(name))
            arriving = [comm.src_module_name for comm in info.bridge_comms_as_dest_module]
            leaving = [comm.dest_module_name for comm in info.bridge_comms_as_src_module]
            assert arriving == ([s for s, d in plan.edges if d == name] if stage.stage == 0 else [])
            assert leaving == ([d for s, d in plan.edges if s == name] if is_last else [])
    return plan.world_size


# ---- all of them


@attrs.frozen
class Compared:
    """The number of answers compared, by the class that gave them."""

    groups: int
    generated_groups: int
    roles: int
    bridges: int
    stages: int
    communicators: int


def everything_agrees(megatron: Megatron, plan: Plan) -> Compared:
    """Make every comparison that the plan allows. What megatron-core cannot answer counts 0."""
    return Compared(
        groups=groups_agree(megatron, plan),
        generated_groups=rank_generator_agrees(megatron, plan),
        roles=roles_agree(megatron, plan) if has_comparable_roles(plan) else 0,
        bridges=bridges_agree(megatron, plan) + colocated_bridges_agree(megatron, plan),
        stages=stages_agree(megatron, plan),
        communicators=communicators_agree(megatron, plan) if is_constructible(plan) else 0,
    )
