"""Files of the simulation and of the report import what the README's Rooms table says, and nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BASE = {"codes", "errors", "frozenmap", "axes"}
FILES = [
    "cost/schedule.py",
    "cost/durations.py",
    "cost/timeline.py",
    "cost/simulate.py",
    "cost/words.py",
    "cost/trace.py",
    "report/content.py",
    "report/build.py",
    "report/page.py",
]


@pytest.mark.parametrize("name", FILES)
def test_imports_are_those_of_the_table(name: str) -> None:
    table = (ROOT / "README.md").read_text().partition("## Rooms")[2].partition("\n\nplanner never")[0]
    rows = [row for row in re.findall(r"^\|([^|]*)\|[^|]*\|([^|]*)\|$", table, flags=re.M) if name in row[0]]
    ((_, allowed),) = rows
    outside, *inside = allowed.split(";")
    if ":" in outside:
        outside, inside = "", [allowed]
    words = {folder: set(re.findall(r"\w+", listed)) for folder, _, listed in (part.partition(":") for part in inside)}
    found = _imports(ROOT / "planner" / name)
    assert found[".."] - BASE == set(re.findall(r"\w+", outside))
    here, other = ("cost", "report") if name.startswith("cost") else ("report", "cost")
    by_folder = {folder.strip(): listed for folder, listed in words.items()}
    assert found["."] == by_folder.get(here, set())
    assert found[other] == by_folder.get(other, set())


def _imports(path: Path) -> dict[str, set[str]]:
    """Modules imported from the package's own folder, from the planner, and from the other folder."""
    found: dict[str, set[str]] = {".": set(), "..": set(), "cost": set(), "report": set()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            first, _, rest = node.module.partition(".")
            if node.level == 1:
                found["."].add(first)
            elif first in ("cost", "report"):
                found[first].add(rest)
            else:
                found[".."].add(first)
    return found
