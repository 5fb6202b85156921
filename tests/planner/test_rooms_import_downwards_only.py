"""Law: every room imports from the rooms below it alone, so that nothing comes round to itself.

The order of the rooms stands in pyproject.toml, under `tool.importlinter`. import-linter holds the folders to it, and a
walk over the same graph of imports the files. Imports in functions and under TYPE_CHECKING count as any other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests import ROOT

PACKAGES = ("planner", "executor")
LATE = ("planner.plan", "planner.plan_file")  # Plan.from_json: reading a plan compiles its spec, and that makes plans
MOST_FILES = 12

CHECK = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"


def checked(folder: Path) -> subprocess.CompletedProcess[str]:
    """Import-linter's report on the packages that stand in a folder, under its pyproject.toml."""
    return subprocess.run(
        [sys.executable, "-c", CHECK],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_rooms_import_downwards_only() -> None:
    done = checked(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken." in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("planner/layout/coords.py", "from ..cost.work import tokens", "The planner, "),
        ("planner/passes/batch.py", "from . import placement", "Passes leave "),
        ("planner/cost/work/tokens.py", "from ..memory import memory", "The cost model"),
        ("planner/spec/presets.py", "import numpy", "Planning needs "),
        ("planner/verify/messages.py", "def walk() -> None:\n    import networkx", "The planner walks "),
        ("planner/search.py", "", "The planner, "),
        ("executor/start/agree.py", "from ..groups import groups", "The executor, "),
        ("executor/bridge/p2p.py", "from . import bridge", "No folder "),
    ],
)
def test_an_import_against_the_order_is_found(tmp_path: Path, file: str, line: str, contract: str) -> None:
    """A contract that cannot fail would be worse than none. A new file without a place is found too."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as source:
        source.write(f"\n{line}\n")
    done = checked(tmp_path)
    assert done.returncode == 1
    assert contract in done.stdout.partition("Broken contracts")[2], done.stdout + done.stderr


def test_no_file_needs_itself() -> None:
    graph = grimp.build_graph(*PACKAGES)
    needs = {file: graph.find_modules_directly_imported_by(file) for file in graph.modules}
    with pytest.raises(CycleError):  # the walk does find circles
        TopologicalSorter(needs).prepare()
    importer, imported = LATE
    needs[importer].remove(imported)
    TopologicalSorter(needs).prepare()


def test_no_folder_holds_more_than_a_dozen_files() -> None:
    """More than that is not read but searched."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py") if file.name != "__init__.py"]
    assert files
    sizes = Counter(str(file.parent.relative_to(ROOT)) for file in files)
    assert {folder: size for folder, size in sizes.items() if size > MOST_FILES} == {}
