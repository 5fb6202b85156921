"""Planning imports nothing heavy, and nothing of the executor."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests import ROOT

HEAVY = ("torch", "numpy", "megatron", "networkx", "executor")


@pytest.mark.parametrize("command", ["plan examples/llava_8gpu.yaml --verify", "predict examples/llava_8gpu.yaml"])
def test_planning_loads_no_heavy_module(command: str) -> None:
    """The whole command, not only the import: late imports count too."""
    program = (
        f"import sys; from planner.cli import main; code = main({command.split()});"
        "print([name for name in sys.modules if name.split('.')[0] in sys.argv[1:]]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *HEAVY], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_planner_names_no_heavy_module() -> None:
    files = list((ROOT / "planner").rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert not [name for name in names if name.split(".")[0] in HEAVY], path
