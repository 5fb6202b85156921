"""Law: any spec gives a plan that can be proven, or a PlanError with a place, a rule and a remedy."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import event, given
from hypothesis import strategies as st

from planner import Fault, Plan, PlanError, Spec, compile_spec, parse_spec
from planner.base.codes import CODES
from planner.verify import verify
from planner.verify.brute_force import MAX_RANKS, MAX_SAMPLES
from tests.strategies import Case, cases, documents, odd_documents

WORLDS = st.sampled_from([None, None, None, 1, 2, 4, 7, 8, 12])


def check(plan: Plan) -> None:
    """Prove the plan, or see that one that is too large is refused aloud."""
    if plan.world_size > MAX_RANKS or plan.batch_sizes.micro_size > MAX_SAMPLES:
        with pytest.raises(ValueError, match="at most"):
            verify(plan)
    else:
        assert verify(plan) > 0
    assert plan.view(plan.world_size - 1).rank == plan.world_size - 1


def check_faults(error: PlanError, *, marked: bool) -> None:
    assert error.faults
    for fault in error.faults:
        assert isinstance(fault, Fault)
        assert CODES[fault.code.name] is fault.code
        assert not fault.is_warning
        assert fault.rule.strip()
        assert fault.remedy.strip()
        assert (fault.mark is not None) == marked
        assert str(fault) in str(error)
    places = [(fault.mark.line, fault.mark.column) for fault in error.faults if fault.mark]
    assert places == sorted(places)


def outcome(document: Any, world_size: int | None) -> Plan | PlanError:
    """What a document gives by way of YAML. Anything but a plan or a PlanError fails the test."""
    try:
        plan = compile_spec(parse_spec(yaml.safe_dump(document, sort_keys=False)), world_size=world_size)
    except PlanError as error:
        check_faults(error, marked=True)
        return error
    check(plan)
    return plan


@given(cases())
def test_specs_that_are_valid_by_construction_plan(case: Case) -> None:
    plan = case.plan()
    if case.world_size is not None:
        assert plan.world_size == case.world_size
    assert [module.name for module in plan.modules] == list(case.spec.modules)
    for module in plan.modules:
        written = case.spec.modules[module.name].parallel
        assert written.dp in (None, module.grid.num_lanes)
        assert (written.tp, written.pp) == (module.grid.size_of("tp"), module.grid.num_stages)


@given(documents(), WORLDS)
def test_well_formed_documents_plan_or_fail_alike_on_both_roads(document: dict[str, Any], world: int | None) -> None:
    from_yaml = outcome(document, world)
    event(type(from_yaml).__name__)
    try:
        from_python: Plan | PlanError = compile_spec(Spec(**document), world_size=world)
    except PlanError as error:
        check_faults(error, marked=False)
        from_python = error
    assert type(from_python) is type(from_yaml)
    if isinstance(from_yaml, Plan):
        assert from_python == from_yaml
    else:
        assert {f.code for f in from_python.faults} == {f.code for f in from_yaml.faults}


@given(odd_documents(), WORLDS)
def test_documents_with_odd_values_plan_or_fail(document: Any, world: int | None) -> None:
    event(type(outcome(document, world)).__name__)


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_text_is_a_spec_or_fails(text: str | bytes) -> None:
    with pytest.raises(PlanError) as caught:
        parse_spec(text)
    check_faults(caught.value, marked=True)


@given(st.text(max_size=60) | documents().map(str))
def test_any_text_is_a_plan_or_fails(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text)
    assert caught.value.faults


@given(documents(), WORLDS)
def test_strict_refuses_exactly_the_plans_with_warnings(document: dict[str, Any], world: int | None) -> None:
    try:
        plan = compile_spec(Spec(**document), world_size=world)
    except PlanError:
        return  # it fails without strict as well, and other tests look at how
    if plan.warnings:
        with pytest.raises(PlanError) as caught:
            compile_spec(Spec(**document), world_size=world, strict=True)
        assert caught.value.faults == plan.warnings
    else:
        assert compile_spec(Spec(**document), world_size=world, strict=True) == plan


@pytest.mark.long
@given(cases(), cases())
def test_a_sweep_of_pairs_plans(one: Case, other: Case) -> None:
    assert (one.plan() == other.plan()) == (one.plan().digest == other.plan().digest)
