"""Law: a plan survives JSON, pickle and its own spec, and is equal to itself and to nothing else."""

from __future__ import annotations

import copy
import json
import pickle

import attrs
import pytest
from hypothesis import assume, given

from planner import Batch, Plan, PlanError, compile_spec
from tests.strategies import Case, cases, planned, proven, simple


@given(cases())
def test_plans_survive_json(case: Case) -> None:
    plan = case.plan()
    text = plan.to_json()
    again = proven(Plan.from_json(text))
    assert again == plan
    assert again.to_json() == text
    assert again.digest == plan.digest


@given(cases())
def test_plans_survive_pickle_and_copy(case: Case) -> None:
    plan = case.plan()
    for again in (pickle.loads(pickle.dumps(plan)), copy.deepcopy(plan)):  # noqa: S301  our own bytes
        assert again == plan
        assert hash(again) == hash(plan)
        assert proven(again).digest == plan.digest


@given(cases())
def test_views_and_bridges_pickle(case: Case) -> None:
    plan = case.plan()
    view = plan.view(plan.world_size - 1)
    again = pickle.loads(pickle.dumps((view, plan.bridges)))  # noqa: S301  our own bytes
    assert again == (view, plan.bridges)


@given(cases())
def test_the_resolved_spec_gives_the_plan_again(case: Case) -> None:
    plan = case.plan()
    resolved = plan.to_spec()
    assert all(module.parallel.dp is not None for module in resolved.modules.values())
    assert planned(resolved, plan.world_size) == plan


@given(cases())
def test_the_resolved_spec_needs_no_world_size(case: Case) -> None:
    """`to_spec` holds every choice that was made, including the size of the world."""
    plan = case.plan()
    assert planned(plan.to_spec()) == plan


@given(cases())
def test_compiling_twice_gives_equal_plans_with_equal_hashes(case: Case) -> None:
    one, other = case.plan(), case.plan()
    assert one == other
    assert one is not other
    assert hash(one) == hash(other)
    assert len({one, other}) == 1


@given(cases(max_modules=3), cases(max_modules=3))
def test_equal_plans_are_equal_documents(one: Case, other: Case) -> None:
    first, second = one.plan(), other.plan()
    assert (first == second) == (first.to_json() == second.to_json())


@given(cases(max_modules=3))
def test_another_batch_is_another_plan(case: Case) -> None:
    plan = case.plan()
    sizes = attrs.evolve(plan.batch_sizes, global_size=plan.batch_sizes.global_size + plan.batch_sizes.micro_size)
    other = planned(attrs.evolve(case.spec, batch=sizes), case.world_size)
    assert other != plan
    assert other.batch.num_microbatches == plan.batch.num_microbatches + 1


@given(cases(max_modules=3))
def test_a_plan_cannot_be_changed(case: Case) -> None:
    plan = case.plan()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        plan.batch_sizes = Batch(global_size=1, micro_size=1, seq_length=1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        plan.modules[0].grid.rank_offset = 1


@given(cases(max_modules=3))
def test_an_edited_document_is_refused(case: Case) -> None:
    """Every number outside `spec` follows from it, so that a number raised by one contradicts the rest."""
    fields = json.loads(case.plan().to_json())
    paths = list(_numbers(fields))
    assume(paths)
    for path in paths[:: max(1, len(paths) // 6)]:
        edited = json.loads(json.dumps(fields))
        parent = edited
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] += 1
        with pytest.raises(PlanError):
            Plan.from_json(json.dumps(edited))


def _numbers(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [found for key, part in value.items() if path or key != "spec" for found in _numbers(part, (*path, key))]
    if isinstance(value, list):
        return [found for i, part in enumerate(value) for found in _numbers(part, (*path, i))]
    return [path] if isinstance(value, int) and not isinstance(value, bool) else []


def test_a_document_is_small_whatever_the_number_of_ranks() -> None:
    small = compile_spec(simple(2**10, language={"tp": 2, "dp": 2}, images={"tp": 2, "dp": 2}))
    large = compile_spec(simple(2**10, language={"tp": 8, "dp": 2**10}, images={"tp": 8, "dp": 2**9}))
    assert large.world_size > 1000 * small.world_size
    assert len(large.to_json()) < 1.1 * len(small.to_json())
