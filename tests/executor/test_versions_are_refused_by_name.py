"""Law: a torch or megatron-core that this package was not seen to run on is refused by name, before it is imported."""

from __future__ import annotations

import tomllib

import pytest

from executor.errors import UnsupportedError
from executor.start.versions import Versions, check_versions
from tests import ROOT
from tests.executor.jobs import ranks

KNOWN = [("2.9.1", "0.19.0"), ("2.11.0a0+nv26.2", "0.19.2"), ("2.15.0+cu132", "0.19.7")]
UNKNOWN = [
    ("2.8.0", "0.19.2", r"torch 2.8.0 is not known .* 2.9 to 2.15: pip install 'torch>=2.9,<2.16'"),
    ("2.16.0", "0.19.2", "torch 2.16.0 is not known"),
    ("3.0", "0.19.2", "torch 3.0 is not known"),
    ("2.15.0", "0.18.2", r"megatron-core 0.18.2 is not known .*: pip install 'megatron-core>=0.19,<0.20'"),
    ("2.15.0", "0.20.0", "megatron-core 0.20.0 is not known"),
    ("2.15.0", "1.19.0", "megatron-core 1.19.0 is not known"),
    ("unknown", "0.19.2", "torch unknown is not known"),
]


@pytest.mark.parametrize(("torch", "megatron"), KNOWN)
def test_known_versions_are_taken(torch: str, megatron: str) -> None:
    check_versions(Versions(torch, megatron))


@pytest.mark.parametrize(("torch", "megatron", "message"), UNKNOWN)
def test_other_versions_are_refused(torch: str, megatron: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        check_versions(Versions(torch, megatron))


def test_the_extra_asks_for_the_same_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"torch>=2.9,<2.16", "megatron-core>=0.19,<0.20"} <= set(project["optional-dependencies"]["executor"])


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_command_refuses_before_it_imports_megatron_core(command: str) -> None:
    ((code, _, err),) = ranks.run(1, "jobs:command_with_versions", "2.15.0", "0.18.2", command, "absent.yaml")
    assert code == 1
    assert err.startswith("executor: megatron-core 0.18.2 is not known here")
