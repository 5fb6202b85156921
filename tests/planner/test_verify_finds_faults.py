"""Law: the verifier passes no plan that gives one wrong answer, and none that was made by arithmetic with one mistake.

A lie replaces an answer of a plan that is otherwise right. A mistake is put into the planner's own code before it
plans. Each is one that some system has made, or a change of one number. Unchanged, the plans pass.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import attrs
import pytest

import planner.layout.bridges
import planner.layout.coords
import planner.layout.groups
import planner.layout.ir
import planner.plan
import planner.verify.brute_force
import planner.verify.messages
from planner import (
    Cluster,
    FrozenMap,
    Group,
    ModuleLayout,
    ModuleStageInfo,
    Plan,
    RankRole,
    RankView,
    Spec,
    Strategy,
    compile_spec,
)
from planner.base.axes import Axis
from planner.layout import stage_order
from planner.layout.stage_order import Pipeline
from planner.verify import VerificationError, verify
from tests.strategies import planned, simple

DISJOINT = attrs.evolve(
    simple(
        12,
        images={"tp": 2, "dp": 3},
        audio={"pp": 2, "dp": 2},
        language={"tp": 2, "dp": 2, "pp": 2, "ep": 2},
        speech={"tp": 2},
    ),
    topology={"language": ["speech"]},
    cluster=Cluster(gpus_per_node=8),
)
SHARED = attrs.evolve(simple(12, images={"tp": 2, "dp": 4}, language={"tp": 4, "dp": 2}), placement="colocated")


def pipeline_of(plan: Plan) -> Pipeline:
    """The honest one, of a plan that lies about it."""
    return stage_order.pipeline_of({module.name: module for module in plan.modules}, plan.edges)


FIRST_EDGE = 0  # images -> language, 3 lanes to 2


def lying(plan: Plan, **answers: Any) -> Plan:
    """`plan` with some of its answers replaced: a function replaces a method, a plain value a property."""

    def as_member(answer: Any) -> Any:
        return answer if isinstance(answer, FunctionType | property) else property(lambda _: answer)

    liar = type("Liar", (Plan,), {name: as_member(answer) for name, answer in answers.items()})
    return liar(**{field.name: getattr(plan, field.name) for field in attrs.fields(Plan)})


def refuted(plan: Plan, *, may_raise: bool = False) -> tuple[str, ...]:
    """The disagreements found. Unless `may_raise`, a plan that raised an error is a lie that was told badly."""
    with pytest.raises(VerificationError) as caught:
        verify(plan)
    found = caught.value.disagreements
    assert 0 < len(found) <= planner.verify.brute_force.MAX_DISAGREEMENTS
    assert all("expected" in line for line in found)
    assert may_raise or "the plan raised" not in found[0]
    return found


# ---- lies: about groups


def lie_groups(change: Callable[[list[tuple[int, ...]]], Any], owner: str = "language", kind: str = "dp") -> Any:
    def groups(self: Plan, asked_owner: str, asked_kind: str) -> Any:
        found = Plan.groups(self, asked_owner, asked_kind)
        return change(list(found)) if (asked_owner, asked_kind) == (owner, kind) else found

    return {"groups": groups}


def swap_kinds(self: Plan, owner: str, kind: str) -> Any:
    return Plan.groups(self, owner, {"tp": "dp", "dp": "tp"}.get(kind, kind))


def kinds_everywhere(self: Plan, owner: str, kind: str) -> Any:
    """A lie that gives encoders embedding groups, which they do not have."""
    return Plan.groups(self, owner, "pp" if kind == "embd" and owner == "images" else kind)


def lie_order(change: Callable[[list[Group]], list[Group]]) -> Any:
    def creation_order(self: Plan) -> Iterator[Group]:
        return iter(change(list(Plan.creation_order(self))))

    return {"creation_order": creation_order}


def swap_neighbours(groups: list[Group]) -> list[Group]:
    return [groups[1], groups[0], *groups[2:]]


def swap_owners(groups: list[Group]) -> list[Group]:
    """Language comes before the encoders, numbered without gaps: an order, but not the right one."""
    found = sorted(groups, key=lambda group: group.owner != "language")
    return [attrs.evolve(group, creation_index=i) for i, group in enumerate(found)]


def shift_indices(groups: list[Group]) -> list[Group]:
    return [attrs.evolve(group, creation_index=group.creation_index + (group.creation_index > 10)) for group in groups]


# ---- lies: about bridges


def lie_transfer(index: int = 1, **changes: Callable[[Any], Any]) -> Any:
    def change(bridge: Any) -> Any:
        transfers = list(bridge.transfers)
        new = {name: how(getattr(transfers[index], name)) for name, how in changes.items()}
        transfers[index] = attrs.evolve(transfers[index], **new)
        return attrs.evolve(bridge, transfers=tuple(transfers))

    return lie_bridge(change)


def lie_bridge(change: Callable[[Any], Any]) -> Any:
    def bridges(self: Plan) -> Any:
        found = [edge.bridge() for edge in self._edges]
        found[FIRST_EDGE] = change(found[FIRST_EDGE])
        return tuple(found)

    return {"bridges": property(bridges)}


def lie_messages(change: Callable[[Any], Any], rank: int = 5) -> Any:
    """Changes what one rank sends over images -> language. Rank 5 leads the last lane of images."""

    def traffic(self: Plan, src: str, dst: str, of: int, direction: str) -> Any:
        found = Plan.traffic(self, src, dst, of, direction)
        lied = (src, dst, of, direction) == ("images", "language", rank, "forward")
        return attrs.evolve(found, sends=change(found.sends)) if lied else found

    return {"traffic": traffic}


# ---- lies: about ranks


def lie_view(**changes: Callable[[RankView], Any]) -> Any:
    """Replaces some fields of the view of language's first rank."""

    def view(self: Plan, rank: int) -> RankView:
        found = Plan.view(self, rank)
        if rank != self.module("language").ranks[0]:
            return found
        return attrs.evolve(found, **{name: how(found) for name, how in changes.items()})

    return {"view": view}


def end_to_front(self: Plan, rank: int) -> RankRole:
    """A lie that exchanges the first and the last stage."""
    role = Plan.role(self, rank)
    swapped = {name: ModuleStageInfo(i.is_last_stage, i.is_first_stage) for name, i in role.modules.items()}
    return RankRole(FrozenMap(swapped), role.mode)


def no_view(self: Plan, rank: int) -> RankView:
    raise RuntimeError(f"no view of rank {rank}")


def with_coord(view: RankView, axis: Axis) -> Any:
    coords = dict(view.coords["language"])
    return FrozenMap({"language": FrozenMap(coords | {axis: coords[axis] + 1})})


LIES: dict[str, Any] = {
    "two kinds swapped": {"groups": swap_kinds},
    "a kind that the module has not": {"groups": kinds_everywhere},
    "groups enumerated backwards": lie_groups(lambda groups: groups[::-1]),
    "ranks of a group backwards": lie_groups(lambda groups: [groups[0][::-1], *groups[1:]]),
    "a group missing": lie_groups(lambda groups: groups[1:]),
    "a rank in two groups": lie_groups(lambda groups: [(*groups[0], groups[1][0]), *groups[1:]]),
    "embedding groups of the first pipeline only": lie_groups(lambda groups: groups[:1], kind="embd"),
    "a broadcast group without its last rank": lie_groups(
        lambda groups: [groups[0][:-1], *groups[1:]], "images->language", "bridge_src"
    ),
    "a p2p group with a stranger": lie_groups(lambda groups: [(*groups[0], 17)], "images->language", "bridge_p2p"),
    "neighbours created in exchanged order": lie_order(swap_neighbours),
    "another order of owners": lie_order(swap_owners),
    "a gap in the creation order": lie_order(shift_indices),
    "the last group never created": lie_order(lambda groups: groups[:-1]),
    "a group created twice": lie_order(lambda groups: [*groups, groups[-1]]),
    "the number of groups": {"num_groups": 1},
    "a larger world": {"world_size": 25},
    "the layout": {"layout": ModuleLayout.MIXED},
    "the length of the pipeline": {"pipeline": property(lambda self: attrs.evolve(pipeline_of(self), num_stages=9))},
    "the wrong leader sends": lie_transfer(src_rank=lambda rank: rank - 1),
    "the wrong leader receives": lie_transfer(dst_rank=lambda rank: rank + 1),
    "a transfer shifted at its destination": lie_transfer(dst_start=lambda start: start + 1),
    "a transfer shifted at its source": lie_transfer(src_start=lambda start: start + 1),
    "a transfer one sample short": lie_transfer(num_samples=lambda num: num - 1),
    "a transfer to another lane": lie_transfer(dst_lane=lambda lane: 1 - lane),
    "a transfer missing": lie_bridge(lambda b: attrs.evolve(b, transfers=tuple(b.transfers)[:-1])),
    "a transfer twice": lie_bridge(lambda b: attrs.evolve(b, transfers=(*b.transfers, b.transfers[0]))),
    "transfers in another order": lie_bridge(lambda b: attrs.evolve(b, transfers=tuple(b.transfers)[::-1])),
    "the strategy": lie_bridge(lambda b: attrs.evolve(b, strategy=Strategy.GATHER)),
    "the two ends of a bridge": lie_bridge(
        lambda b: attrs.evolve(b, src_broadcast=b.dst_broadcast, dst_broadcast=b.src_broadcast)
    ),
    "the direction of a bridge": lie_bridge(lambda b: attrs.evolve(b, src=b.dst, dst=b.src)),
    "a message never sent": lie_messages(lambda sends: sends[1:]),
    "a message sent twice": lie_messages(lambda sends: (*sends, sends[0])),
    "a message to another rank": lie_messages(lambda sends: tuple(attrs.evolve(m, receiver=0) for m in sends)),
    "half a message": lie_messages(lambda sends: tuple(attrs.evolve(m, of=2) for m in sends)),
    "a message of another transfer": lie_messages(
        lambda sends: tuple(attrs.evolve(m, transfer=attrs.evolve(m.transfer, num_samples=9)) for m in sends)
    ),
    "a role with its ends exchanged": {"role": end_to_front},
    "a view that cannot be had": {"view": no_view},
    "the view of another rank": lie_view(rank=lambda view: view.rank + 1),
    "a view without its first group": lie_view(groups=lambda view: view.groups[1:]),
    "a view with its groups in another order": lie_view(groups=lambda view: view.groups[::-1]),
    "a view without transfers": lie_view(transfers=lambda _: ()),
    "a dense coord": lie_view(coords=lambda view: with_coord(view, Axis.DP)),
    "an expert coord": lie_view(coords=lambda view: with_coord(view, Axis.EP)),
    "a position": lie_view(position=lambda view: view.position + 1),
    "a view's own number of stages": lie_view(total_stages=lambda view: view.total_stages + 1),
    "a first stage of the model": lie_view(
        stages=lambda view: FrozenMap({"language": attrs.evolve(view.stages["language"], is_model_first=True)})
    ),
    "data that the stage needs": lie_view(data=lambda _: FrozenMap({"language": ("position_ids",)})),
    "a batch slice": lie_view(batch_slices=lambda _: FrozenMap({"language": slice(1, 7)})),
    "a node": lie_view(node=lambda view: view.node + 1),
    "a local rank": lie_view(local_rank=lambda view: view.local_rank + 1),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_wrong_answer_is_found(lie: str) -> None:
    refuted(lying(planned(DISJOINT), **LIES[lie]), may_raise=lie == "a view that cannot be had")


def test_the_same_answers_told_by_a_liar_pass() -> None:
    """It is the lies that are found, and not the means of lying."""
    plan = planned(DISJOINT)
    honest = lying(plan, **lie_view(rank=lambda view: view.rank), **lie_order(list), **lie_bridge(lambda b: b))
    assert verify(honest) == verify(plan)


@pytest.mark.parametrize(
    "change",
    [
        lambda groups: groups[1:],
        lambda groups: [groups[0][:-1], *groups[1:]],
        lambda groups: groups[::-1],
        lambda groups: [tuple(sorted({*groups[0], *groups[1]})), *groups[1:]][::-1],
    ],
    ids=["missing", "a rank short", "in another order", "merged, in another order"],
)
def test_wrong_gather_groups_are_found(change: Callable[[Any], Any]) -> None:
    plan = planned(SHARED)
    assert len(plan.groups("images->language", "bridge_gather")) > 1
    refuted(lying(plan, **lie_groups(change, "images->language", "bridge_gather")))


@pytest.mark.parametrize(
    "changes",
    [{"rank_offset": 1}, {"ep": 2}, {"sizes": (2, 1, 3)}, {"sizes": (0, 1, 3, 1)}, {"sizes": (2, 1, 1, 1)}],
    ids=str,
)
def test_sizes_that_no_spec_gives_are_found(changes: dict[str, Any]) -> None:
    """The sizes leave ranks idle, put expert axes outside language, or make no sense."""
    plan = planned(simple(12, images={"tp": 2, "dp": 3}, language={"dp": 2}))
    images, language = plan.modules
    images = attrs.evolve(images, grid=attrs.evolve(images.grid, **changes))
    refuted(attrs.evolve(plan, modules=(images, language)), may_raise=True)


def test_samples_that_no_spec_gives_are_found() -> None:
    """Three lanes do not divide 10 samples, and 12 are not whole microbatches of 8."""
    plan = planned(simple(12, images={"dp": 3}, language={"dp": 2}))
    for global_size, micro_size in ((20, 10), (12, 8)):
        sizes = attrs.evolve(plan.batch_sizes, global_size=global_size, micro_size=micro_size)
        refuted(attrs.evolve(plan, batch_sizes=sizes), may_raise=True)


def test_layers_for_other_stages_are_found() -> None:
    plan = planned(simple(12, language={"pp": 2}))
    refuted(attrs.evolve(plan, modules=(attrs.evolve(plan.modules[0], stages=(1, 2, 3)),)))


@pytest.mark.parametrize(
    "edges",
    [
        (("language", "images"), ("images", "language")),
        (("images", "images"), ("images", "language")),
        (("images", "language"), ("images", "language")),
        (),
    ],
    ids=["cycle", "loop", "twice", "apart"],
)
def test_edges_that_no_spec_gives_are_found(edges: tuple[tuple[str, str], ...]) -> None:
    plan = planned(simple(12, images={"dp": 3}, language={"dp": 2}))
    refuted(attrs.evolve(plan, edges=edges), may_raise=True)


# ---- mistakes in the planner's arithmetic


def patch_method(owner: type, name: str, change: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Put `change(original, self, ...)` in place of a method."""
    original = getattr(owner, name)

    def changed(self: Any, *args: Any) -> Any:
        return change(original, self, *args)

    return lambda patch: patch.setattr(owner, name, changed)


def patch_function(module: Any, name: str, change: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    original = getattr(module, name)
    return lambda patch: patch.setattr(module, name, lambda *args, **named: change(original, *args, **named))


def default_order_only(original: Any, dense: Any, expt_tp: int, ep: int) -> Any:
    """A mistake that lays out the expert view as if pp were the slowest axis, whatever the order says."""
    found = original(dense, expt_tp, ep)
    return attrs.evolve(found, period=found.num_flat)


def first_rank_leads(_: Any, self: Any, lane: int) -> int:
    """The mistake in the docstring of megatron-core's BridgeCommunicator, whose code does otherwise."""
    return self.block(lane, 1)[0]


MISTAKES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the first rank sends": patch_method(planner.layout.bridges.Boundary, "leader", first_rank_leads),
    "the source's first stage sends": lambda patch: patch.setattr(
        planner.layout.bridges.Boundary, "stage", property(lambda _: 0)
    ),
    "overlaps end one lane early": patch_function(
        planner.layout.bridges, "_overlaps", lambda original, *args: original(*args)[:1]
    ),
    "lanes overlap by their number only": patch_method(
        planner.layout.bridges.Transfers,
        "between",
        lambda original, self, src, dst: attrs.evolve(original(self, src, dst), src_start=0, dst_start=0),
    ),
    "embedding groups as if there were one pipeline (Bridge #4985)": patch_method(
        planner.layout.groups.StageEnds, "boxes", lambda original, self, index: original(self, 0 * index)
    ),
    "a rank finds another group": patch_method(
        planner.layout.coords.Partition,
        "indices",
        lambda original, self, rank: tuple(i and i - 1 for i in original(self, rank)),
    ),
    "groups of a kind backwards": patch_method(
        planner.layout.coords.Partition,
        "boxes",
        lambda original, self, index: original(self, len(self) - 1 - index),
    ),
    "an expert view for the default order only": patch_function(planner.layout.ir, "expert_view", default_order_only),
    "paths not weighted by stages": patch_function(
        stage_order,
        "stages_before",
        lambda original, edges, num_stages: original(edges, dict.fromkeys(num_stages, 1)),
    ),
    "every stage needs everything": patch_function(
        planner.plan,
        "data_needs",
        lambda original, is_language, after, *_: original(is_language, after, True, True),
    ),
    "edges walked backwards": patch_function(
        planner.plan, "connect", lambda original, edges, *others: original(edges, *others)[::-1]
    ),
    "modules that share ranks called disjoint": patch_function(
        planner.plan, "layout_of", lambda _, __: ModuleLayout.NON_COLOCATED
    ),
}
PLANS: dict[str, Spec] = {
    "disjoint": DISJOINT,
    "shared": SHARED,
    "pp in the middle": simple(12, language={"tp": 2, "pp": 2, "cp": 2, "ep": 2, "expt_tp": 2, "order": "tp-pp-cp-dp"}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_arithmetic_is_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every plan shows every mistake, but one of the three does."""
    for spec in PLANS.values():
        planned(spec)
    MISTAKES[mistake](monkeypatch)
    found = []
    for spec in PLANS.values():
        try:
            verify(compile_spec(spec))
        except VerificationError as error:
            found += error.disagreements
    assert found
    assert not [line for line in found if "the plan raised" in line], "the mistake was made badly"


# ---- the verifier's own promises


def test_it_counts_what_it_checked() -> None:
    """More ranks give more facts, which a check that silently stops would not count."""
    counts = [verify(planned(simple(16, language={"dp": dp}))) for dp in (1, 2, 4, 8, 16)]
    per_rank = [(more - less) / extra for less, more, extra in zip(counts, counts[1:], (1, 2, 4, 8), strict=False)]
    assert per_rank == [per_rank[0]] * 4
    assert per_rank[0] > 20


def test_a_world_too_large_is_refused_aloud() -> None:
    plan = compile_spec(simple(12, language={"tp": 3, "dp": 4}))
    assert verify(plan, max_ranks=12) == verify(plan)
    with pytest.raises(ValueError, match="max_ranks = 11 ranks; this plan has 12"):
        verify(plan, max_ranks=11)
    with pytest.raises(ValueError, match="2097152"):
        verify(compile_spec(simple(2**21, language={})))


def test_errors_name_the_place_and_both_answers() -> None:
    plan = planned(DISJOINT)
    (line,) = refuted(lying(plan, **LIES["a node"]))
    assert line == "view(10): (node, local_rank): expected (1, 2), got (2, 2)"
    with pytest.raises(VerificationError, match=r"\n.*no view of rank"):
        verify(lying(plan, **LIES["a view that cannot be had"]))
    assert issubclass(VerificationError, AssertionError)


@pytest.mark.parametrize("file", [planner.verify.brute_force, planner.verify.messages], ids=lambda file: file.__name__)
def test_it_shares_no_arithmetic_with_what_it_checks(file: ModuleType) -> None:
    """It imports data types of the planner alone, and reads no member of them that computes ranks."""
    tree = ast.parse(Path(file.__file__ or "").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
    assert imported <= {"base.axes", "base.errors", "layout.ir", "plan", "spec.sections", "messages"}
    members = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    computing = {
        "dense",
        "expert",
        "coord",
        "size_of",
        "num_lanes",
        "boxes",
        "sets",
        "families",
        "locate",
        "leader",
    }
    assert not members & computing
    assert not {name for name in members if name.startswith("_") and name not in {"_fields", "__init__"}}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
