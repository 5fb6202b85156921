"""Law: what planner.testing gives to the tests of others passes what is right, and says what is wrong with the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Plan, PlanError, Spec, compile_spec, load_spec
from planner.diff import differences
from planner.testing import PlanOf, assert_same_plan, assert_valid, plans, specs
from tests import EXAMPLES, ROOT
from tests.strategies import Case, cases, simple

TINY = EXAMPLES / "tiny_4rank.yaml"


@given(plans(max_modules=4))
def test_drawn_plans_are_valid_and_the_same_as_themselves(plan: Plan) -> None:
    assert_valid(plan)
    assert_same_plan(plan, Plan.from_json(plan.to_json()))


@given(st.data(), st.integers(1, 6), st.integers(1, 40))
def test_drawn_specs_compile_and_keep_to_their_limits(data: st.DataObject, max_modules: int, max_ranks: int) -> None:
    spec = data.draw(specs(max_modules=max_modules, max_ranks=max_ranks))
    assert 1 <= len(spec.modules) <= min(max_modules, max_ranks)
    assert compile_spec(spec).world_size <= max_ranks


@pytest.mark.parametrize("limits", [(0, 6, 64), (3, 2, 64), (1, 7, 64), (3, 6, 2)])
def test_limits_that_no_spec_can_keep_are_refused(limits: tuple[int, int, int]) -> None:
    @given(specs(*limits))
    def draw(spec: Spec) -> None:
        raise AssertionError(spec)

    with pytest.raises(ValueError, match="1 <= min_modules <= max_modules <= 6 and min_modules <= max_ranks, got"):
        draw()


def test_a_plan_that_answers_one_thing_wrong_is_not_valid(plan_of: PlanOf) -> None:
    class Lying(Plan):
        @property
        def world_size(self) -> int:
            return 5

    plan = plan_of(TINY)
    lying = Lying(**{field.name: getattr(plan, field.name) for field in attrs.fields(Plan)})
    with pytest.raises(AssertionError, match=r"the plan disagrees with its own sizes:\n.*expected 4, got 5"):
        assert_valid(lying)


def test_a_plan_too_large_to_check_is_said_to_be(plan_of: PlanOf) -> None:
    with pytest.raises(ValueError, match="at most max_ranks = 3 ranks; this plan has 4"):
        assert_valid(plan_of(TINY), max_ranks=3)


@given(cases(max_modules=3), cases(max_modules=3))
def test_plans_that_differ_are_told_apart_in_the_words_of_mimo_diff(one: Case, other: Case) -> None:
    expected, actual = compile_spec(one.spec, world_size=one.world_size), other.plan()
    lines = differences(expected, actual)
    if expected.digest == actual.digest:
        assert_same_plan(expected, actual)
        return
    with pytest.raises(AssertionError) as caught:
        assert_same_plan(expected, actual)
    assert str(caught.value).splitlines() == [
        "the plans differ, expected -> actual:",
        *(f"  {line}" for line in lines),
    ]


def test_the_message_goes_from_expected_to_actual() -> None:
    two, four = (compile_spec(simple(language={"tp": tp, "dp": 1})) for tp in (2, 4))
    with pytest.raises(AssertionError, match=r"\n  world: 2 -> 4 ranks\n  language: tp 2 -> 4\n  touches every rank"):
        assert_same_plan(two, four)


# ---- plan_of


def test_a_spec_is_compiled_once_however_it_is_named(plan_of: PlanOf) -> None:
    plan = plan_of(TINY)
    assert plan == compile_spec(load_spec(TINY))
    assert plan_of("examples/tiny_4rank.yaml") is plan_of(str(TINY)) is plan_of(load_spec(TINY)) is plan


def test_worlds_have_plans_of_their_own(plan_of: PlanOf) -> None:
    spec = simple(language={"tp": 2})
    assert [plan_of(spec, world_size=ranks).world_size for ranks in (2, 4, 2)] == [2, 4, 2]
    assert plan_of(spec, world_size=2) is plan_of(spec, world_size=2)


def test_a_file_that_changed_is_read_again(plan_of: PlanOf, tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    text = "batch: {global_size: 8, micro_size: 4, seq_length: 64}\nmodules: {language: {parallel: {tp: 1, dp: 1}}}\n"
    for tp in (1, 2):
        file.write_text(text.replace("tp: 1", f"tp: {tp}"))
        assert plan_of(file).world_size == tp


def test_a_stored_plan_is_taken_as_it_is(plan_of: PlanOf, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(plan_of(TINY).to_json())
    assert_same_plan(plan_of(TINY), plan_of(file))
    with pytest.raises(ValueError, match="is a compiled plan: world_size needs its spec"):
        plan_of(file, world_size=4)


@pytest.mark.parametrize("text", [None, "modules: {}"])
def test_a_file_at_fault_is_reported_with_its_place(plan_of: PlanOf, tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "bad.yaml"
    if text:
        file.write_text(text)
    with pytest.raises(PlanError, match=r"bad\.yaml"):
        plan_of(file)


# ---- as users meet it


def test_the_example_of_a_users_tests_passes() -> None:
    done = pytest_run("examples/testing")
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_a_users_failing_test_says_what_differs(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["planner.testing"]\n')
    (tmp_path / "test_it.py").write_text(
        "from planner.testing import assert_same_plan\n"
        "def test_it(plan_of):\n"
        f"    assert_same_plan(plan_of({str(TINY)!r}), plan_of({str(EXAMPLES / 'llava_8gpu.yaml')!r}))\n"
    )
    done = pytest_run(str(tmp_path), "--rootdir", str(tmp_path))
    assert done.returncode == 1
    assert "world: 4 -> 8 ranks" in done.stdout, done.stdout + done.stderr


def test_a_conftest_may_import_before_it_names_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        'from planner.testing import PlanOf\npytest_plugins = ["planner.testing"]\nassert PlanOf\n'
    )
    (tmp_path / "test_it.py").write_text(f"def test_it(plan_of):\n    assert plan_of({str(TINY)!r}).world_size == 4\n")
    done = pytest_run(str(tmp_path), "--rootdir", str(tmp_path), "-W", "error")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def pytest_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_assertions_need_no_tool_of_tests_and_the_rest_says_what_to_install() -> None:
    program = """
import sys
sys.modules["hypothesis"] = sys.modules["pytest"] = None
from planner import compile_spec, load_spec, testing
plan = compile_spec(load_spec(sys.argv[1]))
testing.assert_valid(plan)
testing.assert_same_plan(plan, plan)
for name in ("plans", "specs", "PlanOf"):
    try:
        getattr(testing, name)
    except ModuleNotFoundError as error:
        assert str(error).endswith('pip install "mimo-planner[testing]"'), error
    else:
        raise AssertionError(name)
"""
    subprocess.run([sys.executable, "-c", program, str(TINY)], cwd=ROOT, check=True, timeout=60)


def test_all_names_are_there_and_no_others() -> None:
    from planner import testing  # noqa: PLC0415

    assert all(getattr(testing, name) for name in testing.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        testing.nothing  # noqa: B018
