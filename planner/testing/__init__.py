"""What the tests of a project need that imports plans: assertions, drawn specs and plans, and plans compiled once.

    from planner.testing import assert_same_plan, assert_valid, plans, specs

| name | what it is |
|---|---|
| `assert_valid(plan)` | fails, saying what is wrong, unless every answer of the plan is right |
| `assert_same_plan(expected, actual)` | fails, saying what differs, unless two plans are equal |
| `specs(…)`, `plans(…)` | hypothesis strategies: any legal layout of a few modules |
| `plan_of` | a pytest fixture: the plan of a spec, compiled once per session |
| `PlanOf` | the type of that fixture, to annotate a test's argument with |

The fixture is there in projects whose topmost conftest.py says

    pytest_plugins = ["planner.testing"]

The assertions need nothing but the planner. The strategies need hypothesis and the fixture needs pytest, which
`pip install "mimo-planner[testing]"` brings; they are imported when they are first asked for.

A conftest may import from here before pytest loads the fixture: no assertion needs rewriting (PYTEST_DONT_REWRITE).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .assertions import assert_same_plan, assert_valid

if TYPE_CHECKING:
    from .fixtures import PlanOf
    from .strategies import plans, specs

__all__ = ["PlanOf", "assert_same_plan", "assert_valid", "plans", "specs"]

pytest_plugins = ["planner.testing.fixtures"]  # what pytest loads when a conftest names this package

_LATE = {"PlanOf": "fixtures", "plans": "strategies", "specs": "strategies"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATE[name]}", __name__), name)
