"""The one import of torch and megatron-core in a session. Without them every test of this room is a visible skip."""

from __future__ import annotations

import warnings

import pytest

pytest.register_assert_rewrite("tests.oracle.agreement")

from .megatron import Megatron  # noqa: E402  after the registration above

_MISSING = "megatron-core, or the torch that it needs, is not installed: nothing to compare with"


@pytest.fixture(scope="session")
def megatron() -> Megatron:
    with warnings.catch_warnings():
        # While they are imported, torch and megatron-core warn of packages that are not installed and of APIs that
        # are new or old. That is their affair; a warning after the import still fails a test.
        warnings.simplefilter("ignore")
        pytest.importorskip("megatron.core", reason=_MISSING, exc_type=ModuleNotFoundError)
        return Megatron()
