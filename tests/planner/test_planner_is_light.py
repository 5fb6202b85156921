"""Planning imports nothing heavy, and nothing of the executor."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

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


BASE = {"codes", "errors", "frozenmap", "axes"}
PASSES = {"topology", "models", "placement", "batch"}


def imports(path: Path, level: int = 1, below: str = "") -> set[str]:
    """The files that a file imports, early or late, from its folder (level 1) or the one above; or `below` a folder."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == level:
            parts = node.module.split(".") if node.module else [alias.name for alias in node.names]
            if below:
                found |= {parts[1]} if node.module and parts[0] == below else set()
            else:
                found |= {parts[0]} if node.module else set(parts)
    return found - BASE


def rooms() -> dict[str, set[str]]:
    """The README's table: file -> what it may import."""
    table = (ROOT / "README.md").read_text().partition("## Rooms")[2].partition("\n\nIn `planner/cost/`")[0]
    rows = re.findall(r"^\| (\w+)\.py \|[^|]*\|([^|]*)\|$", table, flags=re.M)
    return {name: set(re.findall(r"\w+", allowed.replace("late:", ""))) for name, allowed in rows}


def test_files_import_what_the_rooms_table_allows() -> None:
    files = {path.stem: path for path in (ROOT / "planner").glob("*.py") if path.stem not in {"__init__", *BASE}}
    table = rooms()
    assert set(table) == set(files)
    for name, path in files.items():
        assert imports(path) <= table[name], name


def test_passes_do_not_import_each_other() -> None:
    for name in PASSES:
        assert not imports(ROOT / "planner" / f"{name}.py") & ({*PASSES, "compile", "plan"} - {name})


def test_files_of_cost_import_what_their_table_allows() -> None:
    """The same for planner/cost: its own files, early or late; the rest of the planner stays below it."""
    table = (ROOT / "README.md").read_text().partition("In `planner/cost/`")[2].partition("\n\nplanner never")[0]
    rows = {
        name: set(re.findall(r"\w+", allowed))
        for name, allowed in re.findall(r"^\| (\w+)\.py \|[^|]*\|([^|]*)\|$", table, flags=re.M)
    }
    files = {path.stem: path for path in (ROOT / "planner" / "cost").glob("*.py") if path.stem != "__init__"}
    assert set(rows) == set(files)
    for name, path in files.items():
        assert imports(path) == rows[name], name


def test_files_of_report_import_what_their_rows_allow() -> None:
    """`file | job | files of the planner; cost: its files; report: its files`."""
    folder = ROOT / "planner" / "report"
    table = (ROOT / "README.md").read_text().partition("## Rooms")[2].partition("\n\nIn `planner/cost/`")[0]
    rows = dict(re.findall(r"^\| report/(\w+)\.py \|[^|]*\|([^|]*)\|$", table, flags=re.M))
    assert set(rows) == {path.stem for path in folder.glob("*.py")} - {"__init__"}
    for name, allowed in rows.items():
        if "everything" in allowed:
            continue
        parts = [part.strip() for part in allowed.split(";")]
        inside = {part.partition(": ")[0]: part.partition(": ")[2] for part in parts if ": " in part}
        words = set(re.findall(r"\w+", " ".join(part for part in parts if ": " not in part)))
        path = folder / f"{name}.py"
        assert imports(path) == set(re.findall(r"\w+", inside.get("report", ""))), name
        assert imports(path, level=2) - {"cost"} == words, name
        assert imports(path, level=2, below="cost") == set(re.findall(r"\w+", inside.get("cost", ""))), name


def test_only_commands_and_pictures_use_cost() -> None:
    """Plans never depend on what is predicted of them."""
    for path in (ROOT / "planner").glob("*.py"):
        assert "cost" not in imports(path), path.name
