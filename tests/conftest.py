"""The flags and profiles of the tests. `--long` runs the wide sweeps, and many more examples of every law."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["planner.testing"]  # the fixture plan_of

# Tests start more ranks than any machine has GPUs. This is set before torch is imported, here or in another process.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# There is no deadline, because the machines that run this are shared. Each run draws other examples, and prints how to
# repeat one that fails. Drawing a whole spec is slow by its nature, and large by intent.
_COMMON = settings(
    derandomize=False,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("ci", _COMMON, max_examples=30)
settings.register_profile("long", _COMMON, max_examples=500)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long, and many examples of each law")
    parser.addoption("--update-golden", action="store_true", help="write the golden texts of the command anew")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("long" if config.getoption("--long") else "ci")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="a wide sweep: run with --long"))
