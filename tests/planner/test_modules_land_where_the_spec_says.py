"""Law: modules land where the spec says, dp fills what remains, no rank is idle, and what is doubtful gives a warning.

The caller decides the size of the world, else the cluster does, else it is what the modules cover.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import Batch, Cluster, Fault, Module, ModuleLayout, Output, Parallel, Plan, PlanError, Spec, compile_spec
from planner.base.errors import Faults
from planner.layout.ir import Grid, layout_of
from planner.passes.nodes import check_nodes
from planner.passes.placement import MAX_RANKS
from planner.testing.strategies import LANGUAGE, ORDERS, divisors
from tests.strategies import Case, cases, planned, proven, simple

BATCH = Batch(global_size=240, micro_size=120, seq_length=4096)


def spec_of(placement: str | None = None, cluster: Cluster | None = None, **parallels: Any) -> Spec:
    """A spec of these modules, by name. None stands for a module without any parallelism."""
    modules = {name: Module(parallel=parallel) for name, parallel in parallels.items()}
    return Spec(batch=BATCH, modules=modules, placement=placement, cluster=cluster)


def ranks_of(plan: Plan) -> dict[str, tuple[int, int]]:
    """The first rank and the number of ranks of every module."""
    return {module.name: (module.grid.rank_offset, module.grid.size) for module in plan.modules}


def lanes_of(plan: Plan) -> dict[str, int]:
    return {module.name: module.grid.num_lanes for module in plan.modules}


def faults_of(spec: Spec, world_size: int | None = None) -> tuple[Fault, ...]:
    with pytest.raises(PlanError) as caught:
        compile_spec(spec, world_size=world_size)
    return caught.value.faults


def codes_of(spec: Spec, world_size: int | None = None) -> list[str]:
    return [fault.code.name for fault in faults_of(spec, world_size)]


# ---- offsets


def test_disjoint_modules_are_laid_end_to_end_in_the_order_written() -> None:
    sizes = {"images": {"tp": 2, "dp": 3}, "language": {"tp": 2, "pp": 2, "cp": 2}, "audio": {"dp": 5}}
    for placement in (None, "disjoint"):
        plan = planned(spec_of(placement, **sizes))
        assert ranks_of(plan) == {"images": (0, 6), "language": (6, 8), "audio": (14, 5)}
        assert plan.world_size == 19
        assert plan.layout is ModuleLayout.NON_COLOCATED
    turned = planned(spec_of(**dict(reversed(sizes.items()))))
    assert ranks_of(turned) == {"audio": (0, 5), "language": (5, 8), "images": (13, 6)}


def test_colocated_modules_all_start_at_rank_0() -> None:
    plan = planned(
        spec_of("colocated", language={"tp": 4, "dp": 2}, images={"dp": 8}, audio={"tp": 2, "cp": 2, "dp": 2})
    )
    assert ranks_of(plan) == {"language": (0, 8), "images": (0, 8), "audio": (0, 8)}
    assert plan.layout is ModuleLayout.COLOCATED


def test_without_any_parallelism_everything_is_colocated_on_one_rank() -> None:
    plan = planned(spec_of(language=None, images=None, audio=None))
    assert ranks_of(plan) == {"language": (0, 1), "images": (0, 1), "audio": (0, 1)}
    assert plan.layout is ModuleLayout.COLOCATED
    assert plan.world_size == 1
    # An empty `parallel` counts as parallelism: each module has a rank of its own.
    plan = planned(spec_of(language={}, images=None, audio=None))
    assert ranks_of(plan) == {"language": (0, 1), "images": (1, 1), "audio": (2, 1)}
    # `placement` decides in any case.
    assert planned(spec_of("disjoint", language=None, images=None)).world_size == 2


def test_without_any_parallelism_the_known_world_is_all_lanes() -> None:
    plan = planned(spec_of(language=None, images=None), world_size=8)
    assert lanes_of(plan) == {"language": 8, "images": 8}
    assert plan.layout is ModuleLayout.COLOCATED


def test_explicit_offsets_override_placement() -> None:
    for placement in (None, "disjoint", "colocated"):
        plan = planned(spec_of(placement, language={"dp": 4, "rank_offset": 2}, images={"dp": 2, "rank_offset": 0}))
        assert ranks_of(plan) == {"language": (2, 4), "images": (0, 2)}


@pytest.mark.parametrize(
    ("images", "audio", "layout"),
    [
        ((0, 4), (0, 4), ModuleLayout.COLOCATED),
        ((4, 4), (8, 2), ModuleLayout.NON_COLOCATED),
        ((4, 4), (4, 4), ModuleLayout.NON_COLOCATED),  # encoders may share ranks with each other
        ((4, 4), (6, 4), ModuleLayout.NON_COLOCATED),
        ((0, 4), (4, 4), ModuleLayout.MIXED),
        ((3, 2), (5, 1), ModuleLayout.MIXED),
        ((0, 2), (2, 2), ModuleLayout.MIXED),  # both inside language
        ((0, 8), (0, 8), ModuleLayout.MIXED),  # language inside both
    ],
)
def test_layouts_follow_from_the_ranks_that_modules_share(
    images: tuple[int, int], audio: tuple[int, int], layout: ModuleLayout
) -> None:
    parallels = {
        name: {"dp": size, "rank_offset": offset}
        for name, (offset, size) in {"language": (0, 4), "images": images, "audio": audio}.items()
    }
    plan = planned(spec_of(**parallels))
    assert plan.layout is layout
    assert ranks_of(plan) == {"language": (0, 4), "images": images, "audio": audio}


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=4))
def test_layouts_agree_with_sets_of_ranks(spans: list[tuple[int, int]]) -> None:
    names = [LANGUAGE, "images", "audio", "video"][: len(spans)]
    grids = {
        name: Grid(rank_offset=offset, order=ORDERS[0], sizes=(1, 1, size, 1))
        for name, (offset, size) in zip(names, spans, strict=True)
    }
    sets = {name: set(range(offset, offset + size)) for name, (offset, size) in zip(names, spans, strict=True)}
    if all(ranks == sets[LANGUAGE] for ranks in sets.values()):
        expected = ModuleLayout.COLOCATED
    elif not any(sets[LANGUAGE] & ranks for name, ranks in sets.items() if name != LANGUAGE):
        expected = ModuleLayout.NON_COLOCATED
    else:
        expected = ModuleLayout.MIXED
    assert layout_of(grids) is expected


@pytest.mark.parametrize("without", [("images",), ("language",), ("images", "audio")])
def test_offsets_on_some_modules_only_are_refused(without: tuple[str, ...]) -> None:
    parallels: dict[str, Any] = {
        name: {"dp": 2, "rank_offset": 2 * i} for i, name in enumerate(("language", "images", "audio"))
    }
    for name in without:
        del parallels[name]["rank_offset"]
    faults = faults_of(spec_of(**parallels))
    assert [(fault.code.name, fault.path) for fault in faults] == [
        ("P003", ("modules", name)) for name in parallels if name in without
    ]
    for fault, name in zip(faults, without, strict=True):
        assert f"{name} has none" in fault.rule


def test_a_module_without_parallelism_has_no_offset_either() -> None:
    assert codes_of(spec_of(language={"rank_offset": 0}, images=None)) == ["P003"]


# ---- dp


@pytest.mark.parametrize("open_one", ["language", "images", "audio"])
def test_the_one_open_dp_of_a_disjoint_placement_takes_what_remains(open_one: str) -> None:
    parallels: dict[str, Any] = {
        "language": {"tp": 2, "pp": 2, "dp": 3},
        "images": {"tp": 2, "dp": 4},
        "audio": {"dp": 4},
    }
    del parallels[open_one]["dp"]
    expected = {"language": 3, "images": 4, "audio": 4}
    cluster = Cluster(nodes=3, gpus_per_node=8)
    assert lanes_of(planned(spec_of(cluster=cluster, **parallels))) == expected
    assert lanes_of(planned(spec_of(**parallels), world_size=24)) == expected
    assert lanes_of(planned(spec_of(**parallels)))[open_one] == 1  # nobody says how many ranks there are


def test_two_open_dp_of_a_disjoint_placement_are_refused() -> None:
    spec = spec_of(language={"tp": 2}, images={"tp": 2}, audio={"dp": 4})
    faults = faults_of(spec, 16)
    assert {fault.code.name for fault in faults} == {"P001"}
    assert all("language" in fault.rule and "images" in fault.rule for fault in faults)
    assert all("audio" not in fault.rule for fault in faults)
    assert lanes_of(planned(spec)) == {"language": 1, "images": 1, "audio": 4}  # without a world they are 1


@given(st.sampled_from([4, 8, 12, 24, 60]), st.data())
def test_every_open_dp_of_a_colocated_placement_takes_the_world(world: int, data: st.DataObject) -> None:
    parallels = {}
    for name in (LANGUAGE, "images", "audio"):
        tp = data.draw(st.sampled_from(divisors(world)))
        parallels[name] = {"tp": tp, "pp": data.draw(st.sampled_from(divisors(world // tp)))}
    spec = attrs.evolve(spec_of("colocated", **parallels))
    plan = planned(spec, world)
    assert lanes_of(plan) == {name: world // (p["tp"] * p["pp"]) for name, p in parallels.items()}
    assert plan.layout is ModuleLayout.COLOCATED


def test_an_open_dp_with_offsets_reaches_to_the_next_module() -> None:
    spec = spec_of(language={"tp": 2, "rank_offset": 4}, images={"rank_offset": 0}, audio={"tp": 3, "rank_offset": 12})
    plan = planned(spec, world_size=18)
    assert ranks_of(plan) == {"language": (4, 8), "images": (0, 4), "audio": (12, 6)}
    assert lanes_of(plan) == {"language": 4, "images": 4, "audio": 2}
    same = spec_of(language={"tp": 2, "rank_offset": 0}, images={"rank_offset": 0})
    assert lanes_of(planned(same, world_size=6)) == {"language": 3, "images": 6}


@pytest.mark.parametrize(
    ("world", "says"),
    [(9, "5 / (tp 2 * cp 1 * pp 1) = 2.5"), (5, "1 / (tp 2 * cp 1 * pp 1) = 0.5"), (4, "0 /"), (2, "-2 /")],
)
def test_a_world_that_leaves_no_whole_lanes_is_refused(world: int, says: str) -> None:
    (fault,) = faults_of(spec_of(language={"tp": 2}, images={"dp": 4}), world)
    assert fault.code.name == "P002"
    assert fault.path == ("modules", "language", "parallel")
    assert says in fault.rule


@given(cases())
def test_placement_keeps_what_is_written(case: Case) -> None:
    plan = case.plan()
    for module in plan.modules:
        written = case.spec.modules[module.name].parallel or Parallel()
        sizes = {axis: module.grid.size_of(axis) for axis in ("tp", "cp", "pp")}
        assert sizes == {"tp": written.tp, "cp": written.cp, "pp": written.pp}
        assert written.dp in (None, module.grid.num_lanes)
        assert written.rank_offset in (None, module.grid.rank_offset)
        assert module.grid.order == written.order
    covered = {rank for module in plan.modules for rank in module.ranks}
    assert covered == set(range(plan.world_size))


# ---- the world


def test_the_callers_world_overrides_the_cluster() -> None:
    spec = spec_of(cluster=Cluster(nodes=2, gpus_per_node=8), language={"tp": 2}, images={"dp": 4})
    assert planned(spec).world_size == 16
    plan = planned(spec, world_size=24)
    assert plan.world_size == 24
    assert lanes_of(plan) == {"language": 10, "images": 4}
    assert plan.num_nodes == 3
    assert planned(spec, world_size=6).num_nodes == 1


@pytest.mark.parametrize("cluster", [Cluster(gpus_per_node=8), Cluster(gpu="h100"), None])
def test_a_cluster_that_does_not_say_how_many_ranks_there_are_leaves_it_to_the_modules(cluster: Cluster | None) -> None:
    plan = planned(spec_of(cluster=cluster, language={"tp": 2}, images={"dp": 4}))
    assert plan.world_size == 6
    assert lanes_of(plan) == {"language": 1, "images": 4}


def test_idle_ranks_are_named() -> None:
    spec = spec_of(language={"dp": 2, "rank_offset": 1}, images={"dp": 2, "rank_offset": 5})
    (fault,) = faults_of(spec)
    assert fault.code.name == "P004"
    assert "4 do not" not in fault.rule
    assert "0-6" in fault.rule
    assert fault.rule.endswith("3 do not: 0, 3-4")
    assert fault.path == ("modules",)
    faults = faults_of(spec_of(cluster=Cluster(nodes=1, gpus_per_node=8), language={"dp": 2, "tp": 3}))
    assert [(fault.code.name, fault.path) for fault in faults] == [("P004", ("cluster",))]
    assert faults[0].rule.endswith("2 do not: 6-7")


def test_many_gaps_are_cut_short() -> None:
    names = (LANGUAGE, *(f"m{i}" for i in range(12)))
    spec = spec_of(**{name: {"dp": 1, "rank_offset": 2 * i + 1} for i, name in enumerate(names)})
    (fault,) = faults_of(spec)
    assert fault.rule.endswith("13 do not: 0, 2, 4, 6, 8, 10, 12, 14, ...")


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), min_size=1, max_size=4), st.none() | st.integers(1, 18)
)
def test_coverage_agrees_with_sets_of_ranks(spans: list[tuple[int, int]], world: int | None) -> None:
    names = [LANGUAGE, "images", "audio", "video"][: len(spans)]
    spec = spec_of(**{n: {"dp": s, "rank_offset": o} for n, (o, s) in zip(names, spans, strict=True)})
    covered = {rank for offset, size in spans for rank in range(offset, offset + size)}
    end = world if world is not None else max(covered) + 1
    expected = {"P004"} if set(range(end)) - covered else set()
    expected |= {"P005"} if max(covered) >= end else set()
    if not expected:
        assert planned(spec, world).world_size == end
        return
    faults = faults_of(spec, world)
    assert {fault.code.name for fault in faults} == expected
    beyond = {fault.path[1] for fault in faults if fault.code.name == "P005"}
    assert beyond == {n for n, (o, s) in zip(names, spans, strict=True) if o + s > end}
    for fault in faults:
        if fault.code.name == "P004":
            assert f"{len(set(range(end)) - covered)} do not" in fault.rule


def test_a_module_beyond_the_world_is_named_with_its_end() -> None:
    faults = faults_of(spec_of(language={"tp": 2, "dp": 2}, images={"dp": 8}), 8)
    assert [(fault.code.name, fault.path) for fault in faults] == [("P005", ("modules", "images", "parallel"))]
    assert "4 + 1 * 1 * 8 * 1 = 12" in faults[0].rule
    assert "8 ranks of the world" in faults[0].rule
    assert "4 more ranks" in faults[0].remedy


def test_colocated_modules_of_different_sizes_are_refused() -> None:
    (fault,) = faults_of(spec_of("colocated", language={"tp": 4}, images={"tp": 2}, audio={"dp": 4}))
    assert (fault.code.name, fault.path) == ("P006", ("placement",))
    assert "language 4, images 2, audio 4" in fault.rule


def test_worlds_end_at_two_to_the_twenty_four() -> None:
    assert MAX_RANKS == 2**24
    plan = compile_spec(spec_of(language={"tp": 2**12, "pp": 2**12}))
    assert plan.world_size == 2**24
    assert codes_of(spec_of(language={"tp": 2**12, "pp": 2**12}, images={})) == ["P009"]
    assert codes_of(spec_of(language={"tp": 2**24, "pp": 2})) == ["P009"]
    assert codes_of(spec_of(language={"rank_offset": 2**24})) == ["P009"]
    cluster = Cluster(nodes=2**13, gpus_per_node=2**12)
    assert codes_of(spec_of(cluster=cluster, language={"tp": 2})) == ["P009"]
    assert set(codes_of(spec_of(language={"tp": 2}), 2**24 + 1)) <= {"P009", "S104"}


# ---- the expert view


@pytest.mark.parametrize("ep", range(1, 13))
@pytest.mark.parametrize("expt_tp", [1, 2, 3])
def test_expert_axes_divide_a_stage(expt_tp: int, ep: int) -> None:
    spec = spec_of(language={"tp": 2, "cp": 2, "dp": 3, "pp": 2, "ep": ep, "expt_tp": expt_tp})
    if 12 % (ep * expt_tp):
        (fault,) = faults_of(spec)
        assert (fault.code.name, fault.path) == ("P007", ("modules", "language", "parallel"))
        assert f"12 / ({expt_tp} * {ep}) = {12 / (ep * expt_tp):g}" in fault.rule
    else:
        grid = planned(spec).module(LANGUAGE).grid
        assert (grid.size_of("expt_tp"), grid.size_of("ep"), grid.size_of("expt_dp")) == (
            expt_tp,
            ep,
            12 // (ep * expt_tp),
        )


def test_expert_axes_divide_an_inferred_dp() -> None:
    spec = spec_of(language={"tp": 2, "ep": 4}, images={"dp": 4})
    assert planned(spec, 12).module(LANGUAGE).grid.size_of("expt_dp") == 2
    (fault,) = faults_of(spec, 14)
    assert fault.code.name == "P007"
    assert "10 / (1 * 4) = 2.5" in fault.rule


def test_expert_axes_are_for_language_only() -> None:
    for axis in ("ep", "expt_tp"):
        with pytest.raises(PlanError) as caught:
            spec_of(language={}, images={"tp": 2, axis: 2})
        assert [(f.code.name, f.path) for f in caught.value.faults] == [
            ("P008", ("modules", "images", "parallel", axis))
        ]
        assert planned(spec_of(language={"tp": 2, axis: 2}, images={axis: 1}))


# ---- warnings


def warned(plan: Plan, code: str) -> list[Fault]:
    return [fault for fault in plan.warnings if fault.code.name == code]


def crossing(plan: Plan, name: str, kind: str, gpus_per_node: int) -> list[tuple[int, ...]]:
    """The oracle: the groups of a module that lie on more than one node, and that could lie on one."""
    grid = plan.module(name).grid
    if kind == "ep" and grid.ep * grid.expt_tp > gpus_per_node:
        return []
    return [group for group in plan.groups(name, kind) if len({rank // gpus_per_node for rank in group}) > 1]


def check_crossings(plan: Plan, gpus_per_node: int) -> None:
    found = {fault.path: fault for fault in [*warned(plan, "W001"), *warned(plan, "W007")]}
    expected = {
        ("modules", module.name, "parallel", kind): groups
        for module in plan.modules
        for kind in ("tp", "expt_tp", "ep")
        if (groups := crossing(plan, module.name, kind, gpus_per_node))
    }
    assert set(found) == set(expected)
    for path, fault in found.items():
        assert (fault.code.name == "W007") == (path[-1] == "ep")
        first, last = map(int, re.search(r"ranks (\d+)-(\d+)", fault.rule).groups())
        assert (first, last) in {(min(group), max(group)) for group in expected[path]}
    assert bool(warned(plan, "W002")) == (plan.world_size > gpus_per_node and plan.world_size % gpus_per_node > 0)


@settings(max_examples=70)
@given(
    st.sampled_from(ORDERS),
    st.fixed_dictionaries({axis: st.integers(1, 5) for axis in ("tp", "cp", "dp", "pp")}),
    st.integers(0, 9),
    st.integers(1, 20),
)
def test_crossing_groups_are_found_at_any_offset_and_order(
    order: tuple[Any, ...], sizes: dict[str, int], offset: int, gpus_per_node: int
) -> None:
    parallels: dict[str, Any] = {LANGUAGE: {**sizes, "order": order, "rank_offset": offset}}
    if offset:
        parallels["images"] = {"tp": offset, "rank_offset": 0}
    batch = Batch(global_size=sizes["dp"], micro_size=sizes["dp"], seq_length=2 * sizes["cp"])
    spec = attrs.evolve(simple(**parallels), batch=batch, cluster=Cluster(gpus_per_node=gpus_per_node))
    check_crossings(proven(compile_spec(spec)), gpus_per_node)


@given(cases(), st.integers(1, 12))
def test_crossing_groups_are_found_in_any_plan(case: Case, gpus_per_node: int) -> None:
    plan = case.plan()
    grids = {module.name: module.grid for module in plan.modules}
    faults = Faults()
    check_nodes(grids, gpus_per_node, faults)
    check_crossings(attrs.evolve(plan, warnings=faults.warnings), gpus_per_node)
    silent = Faults()
    check_nodes(grids, None, silent)
    assert not silent.warnings


def test_a_group_that_crosses_a_node_is_warned_of_with_its_ranks() -> None:
    cluster = Cluster(nodes=2, gpus_per_node=8)
    plan = planned(spec_of(cluster=cluster, images={"tp": 2, "dp": 2}, language={"tp": 8, "dp": 1}, audio={"dp": 4}))
    (fault,) = warned(plan, "W001")
    assert fault.is_warning
    assert "language" in fault.rule
    assert "nodes of 8" in fault.rule
    assert "ranks 4-11" in fault.rule
    assert not planned(spec_of(cluster=cluster, language={"tp": 8, "dp": 2})).warnings
    assert not warned(planned(spec_of(language={"tp": 8, "dp": 2})), "W001")  # nothing is known about nodes


def test_checking_nodes_takes_no_time_at_any_size() -> None:
    """No group is looked at twice: calls of Python functions are counted. Here all groups but one stay in a node."""
    spec = Spec(
        cluster=Cluster(gpus_per_node=8388607),
        batch=Batch(global_size=2**22, micro_size=2**22, seq_length=4096),
        modules={LANGUAGE: Module(parallel={"order": "cp-tp-dp-pp", "tp": 2, "dp": 2**22})},
    )
    found = Counter[str]()
    sys.setprofile(lambda _, event, __: found.update([event]))
    try:
        plan = compile_spec(spec)
    finally:
        sys.setprofile(None)
    assert found["call"] < 10_000  # for 2^23 ranks
    assert warned(plan, "W001")  # ranks 8388606 and 8388607


def test_uneven_nodes_are_warned_of() -> None:
    cluster = Cluster(gpus_per_node=8)
    (fault,) = warned(planned(spec_of(cluster=cluster, language={"dp": 12})), "W002")
    assert fault.path == ("cluster",)
    assert "12 % 8 = 0, got 4" in fault.rule
    for num_lanes in (1, 5, 8, 24):  # part of one node, or whole nodes
        assert not warned(planned(spec_of(cluster=cluster, language={"dp": num_lanes})), "W002")


@pytest.mark.parametrize(
    ("tokens", "is_warned"), [(16, False), (4, False), (48, False), (1, False), (9, True), (17, True), (15, True)]
)
def test_tokens_that_no_image_gives_are_warned_of(tokens: int, is_warned: bool) -> None:
    model = {
        "family": "vit",
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    images = Module(model=model, output=Output(tokens_per_sample=tokens))
    plan = planned(Spec(batch=BATCH, modules={LANGUAGE: Module(), "images": images}))
    found = warned(plan, "W004")
    assert bool(found) == is_warned
    for fault in found:
        assert fault.path == ("modules", "images", "output", "tokens_per_sample")
        assert f"(32 / 8)^2 = 16, got {tokens}" in fault.rule


def test_warnings_stop_only_strict_plans() -> None:
    spec = spec_of(cluster=Cluster(gpus_per_node=8), language={"dp": 12})
    assert [fault.code.name for fault in planned(spec).warnings] == ["W002"]
    with pytest.raises(PlanError) as caught:
        compile_spec(spec, strict=True)
    assert [fault.code.name for fault in caught.value.faults] == ["W002"]
    assert planned(spec) == planned(attrs.evolve(spec))  # warnings are no part of the value of a plan
    assert compile_spec(simple(8, language={"dp": 4}), strict=True)
