"""Law: planning loads nothing heavy, and nothing of the executor.

The contract of imports holds what the files name: test_rooms_import_downwards_only.py.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import ROOT

HEAVY = ("torch", "numpy", "megatron", "networkx", "executor")


@pytest.mark.parametrize("command", ["plan examples/llava_8gpu.yaml --verify", "predict examples/llava_8gpu.yaml"])
def test_planning_loads_no_heavy_module(command: str) -> None:
    """The whole command is run, since late imports count too."""
    program = (
        f"import sys; from planner.cli import main; code = main({command.split()});"
        "print([name for name in sys.modules if name.split('.')[0] in sys.argv[1:]]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *HEAVY], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
