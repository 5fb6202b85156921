"""The session's one import of torch and megatron-core; without them every oracle test is a visible skip."""

from __future__ import annotations

import warnings

import pytest

pytest.register_assert_rewrite("tests.oracle.agreement")

from .megatron import Megatron  # noqa: E402  after the registration above

_MISSING = "megatron-core, or the torch that it needs, is not installed: nothing to compare with"


@pytest.fixture(scope="session")
def megatron() -> Megatron:
    with warnings.catch_warnings():
        # What torch and megatron-core warn of while they are imported (packages that are not installed, APIs
        # that are new or old) is theirs; what they warn of afterwards still fails a test.
        warnings.simplefilter("ignore")
        pytest.importorskip("megatron.core", reason=_MISSING, exc_type=ModuleNotFoundError)
        return Megatron()
