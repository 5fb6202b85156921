"""Law: `planner` has the names that it lists, each loaded when it is first asked for, and no others."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import planner
from tests import ROOT


def test_every_name_is_there() -> None:
    assert len(set(planner.__all__)) == len(planner.__all__)
    for name in planner.__all__:
        found = getattr(planner, name)
        assert getattr(found, "__name__", name) == name
    assert set(planner.__all__) <= set(dir(planner))


def test_a_star_brings_every_name() -> None:
    names: dict[str, object] = {}
    exec("from planner import *", names)  # noqa: S102
    assert set(planner.__all__) <= set(names)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'planner' has no attribute 'plam'"):
        planner.plam  # noqa: B018


def test_objects_are_pickled_by_their_own_modules() -> None:
    for name in planner.__all__:
        assert pickle.loads(pickle.dumps(getattr(planner, name))) == getattr(planner, name)  # noqa: S301


@pytest.mark.parametrize(
    "statement", ["import planner", "from planner.cli import main", "import executor.commands.cli"]
)
def test_importing_loads_nothing_else(statement: str) -> None:
    program = f"{statement}; import sys; print([name for name in ('attrs', 'yaml', 'torch') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_the_function_and_the_classmethod_are_one() -> None:
    modules, sizes = {"language": {"tensor_model_parallel_size": 2}}, (8, 4, 128)
    given = dict(zip(("global_batch_size", "micro_batch_size", "seq_length"), sizes, strict=True))
    assert planner.from_parallelism(modules, **given) == planner.Spec.from_parallelism(modules, **given)
