"""The comparisons hold for the version of megatron-core that they were written for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest


def test_megatron_core_is_0_19() -> None:
    """It is >= 0.19 and < 0.20, as the dependencies of the executor say."""
    try:
        found = version("megatron-core")
    except PackageNotFoundError:
        pytest.skip("megatron-core is not installed: nothing to compare with")
    assert found.split(".")[:2] == ["0", "19"], f"compared with megatron-core {found}, written against 0.19"
