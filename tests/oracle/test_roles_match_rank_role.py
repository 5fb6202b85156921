"""A plan's roles equal megatron-core's RankRole, built for every rank, and the two classes have the same members."""

from __future__ import annotations

import dataclasses

import attrs
import pytest
from hypothesis import given

import planner
from planner import Batch, Module, ModuleLayout, Parallel, Spec

from .agreement import has_comparable_roles, roles_agree, stage_flags
from .layouts import MANY, Limits, planned, specs
from .megatron import Megatron

# Left out are MIXED layouts, which megatron-core does not have (it calls them NON_COLOCATED), and colocated pp > 1: it
# calls every stage first and last, because it has no colocated pipelines. The last two tests hold both facts.
_APART = Limits(placements=("disjoint", "shared"), min_modules=2, max_ranks=12)
_TOGETHER = Limits(placements=("colocated",), pp=False)


@MANY
@given(spec=specs(_APART))
def test_non_colocated_roles_match(megatron: Megatron, spec: Spec) -> None:
    plan = planned(spec)
    assert plan.layout is ModuleLayout.NON_COLOCATED
    assert roles_agree(megatron, plan) == plan.world_size


@MANY
@given(spec=specs(_TOGETHER))
def test_colocated_roles_match(megatron: Megatron, spec: Spec) -> None:
    plan = planned(spec)
    assert plan.layout is ModuleLayout.COLOCATED
    assert roles_agree(megatron, plan) == plan.world_size


@pytest.mark.parametrize("name", ["RankRole", "ModuleStageInfo"])
def test_classes_have_the_same_face(megatron: Megatron, name: str) -> None:
    theirs, ours = getattr(megatron.role, name), getattr(planner, name)
    fields = [field.name for field in dataclasses.fields(theirs)]
    assert fields
    assert [field.name for field in attrs.fields(ours)] == fields
    public = {member: value for member, value in vars(theirs).items() if not member.startswith("_")}
    for member, value in public.items():
        if member in fields:  # the dataclass keeps a default on the class
            continue
        assert isinstance(value, property) == isinstance(vars(ours)[member], property), member
        assert isinstance(value, classmethod) == isinstance(vars(ours)[member], classmethod), member


def test_rank_role_has_megatrons_members(megatron: Megatron) -> None:
    """The list itself is compared, so that the test above cannot pass over an empty one."""
    properties = {"has_modality_modules", "has_language_module", "modality_module_names"}
    methods = {"build", "is_first_stage", "is_last_stage"}
    for role in (megatron.role.RankRole, planner.RankRole):
        assert {name for name, value in vars(role).items() if isinstance(value, property)} == properties
        assert methods <= set(dir(role))


def test_layouts_and_language_key_are_megatrons(megatron: Megatron) -> None:
    theirs = {layout.name: layout.value for layout in megatron.role.ModuleLayout}
    ours = {layout.name: layout.value for layout in ModuleLayout}
    assert theirs.items() <= ours.items()
    assert set(ours) - set(theirs) == {"MIXED"}
    assert planner.MIMO_LANGUAGE_MODULE_KEY == megatron.role.MIMO_LANGUAGE_MODULE_KEY


def _two(images: Parallel, language: Parallel) -> Spec:
    return Spec(
        batch=Batch(global_size=4, micro_size=4, seq_length=4096),
        modules={"images": Module(parallel=images), "language": Module(parallel=language)},
    )


def test_mixed_differs_in_its_name_only(megatron: Megatron) -> None:
    plan = planned(_two(Parallel(tp=2, pp=2, rank_offset=0), Parallel(dp=4, pp=2, rank_offset=2)))
    assert plan.layout is ModuleLayout.MIXED
    assert not has_comparable_roles(plan)
    for rank in range(plan.world_size):
        theirs = megatron.role_of(plan, rank)
        assert theirs.mode.name == "NON_COLOCATED"
        assert stage_flags(theirs) == stage_flags(plan.role(rank))


def test_megatron_knows_no_colocated_pipeline(megatron: Megatron) -> None:
    plan = planned(_two(Parallel(tp=2, pp=2, rank_offset=0), Parallel(dp=2, pp=2, rank_offset=0)))
    assert plan.layout is ModuleLayout.COLOCATED
    assert not has_comparable_roles(plan)
    for rank in range(plan.world_size):
        assert set(stage_flags(megatron.role_of(plan, rank)).values()) == {(True, True)}
        assert set(stage_flags(plan.role(rank)).values()) == {(rank < 2, rank >= 2)}
