"""The executor's paths that the former release's README named give the same objects, and warn of the new path."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import ROOT

PATHS = [
    ("executor.data", "Synthetic", "executor.training.synthetic_data"),
    ("executor.device", "backend", "executor.start.device"),
    ("executor.rows", "SIZES", "executor.bridge.packed"),
]


@pytest.mark.parametrize(("former", "name", "now"), PATHS)
def test_a_former_path_gives_the_same_object(former: str, name: str, now: str) -> None:
    """In a process of its own: importing megatron-core warns of much else."""
    program = f"""
import importlib, warnings
warnings.simplefilter("ignore")
former, now = importlib.import_module({former!r}), importlib.import_module({now!r})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = former.{name}
assert found is now.{name}
(warning,) = caught
assert warning.category is DeprecationWarning
print(warning.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{former} is now {now}"
