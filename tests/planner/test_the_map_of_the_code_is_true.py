"""Law: docs/system.md names every folder of the code, and every file that it names is there."""

from __future__ import annotations

import ast
import re

import pytest

from tests import ROOT

PAGE = (ROOT / "docs" / "system.md").read_text()
NEW = PAGE.index("### Where new work goes")


def rows(package: str) -> dict[str, str]:
    """The rows of a package's table: folder, relative to the package, -> the rest of its row."""
    section = re.split(r"^#", PAGE.partition(f"### `{package}`\n")[2], maxsplit=1, flags=re.M)[0]
    found = re.findall(r"^\| `([\w/]+)/` \|(.*)$", section, flags=re.M)
    return {"" if folder == package else folder: rest for folder, rest in found}


@pytest.mark.parametrize("package", ["planner", "executor"])
def test_every_folder_has_a_row(package: str) -> None:
    folders = {path.parent.relative_to(ROOT / package).as_posix() for path in (ROOT / package).rglob("*.py")}
    named = set(rows(package)) - {"hardware"}  # holds no code
    assert {folder or "." for folder in named} == folders


@pytest.mark.parametrize("package", ["planner", "executor"])
def test_every_file_that_a_row_names_is_in_its_folder(package: str) -> None:
    for folder, rest in rows(package).items():
        names = re.findall(r"`([\w/]+\.(?:py|js|yaml))`", rest.split(" | ")[1])
        assert names, folder
        assert [name for name in names if not (ROOT / package / folder / name).exists()] == [], folder


def test_every_path_of_the_page_exists() -> None:
    paths = re.findall(r"`((?:planner|executor|tests)/[\w/]+\.(?:py|yaml))`", PAGE)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists() and "NAME" not in path] == []


def test_folders_to_come_are_not_there_yet() -> None:
    """Once a folder exists, its row moves up into the table."""
    coming = re.findall(r"`((?:planner|executor)/\w+)/`", PAGE[NEW : PAGE.index("### Tests", NEW)])
    assert coming
    assert [folder for folder in coming if (ROOT / folder).exists()] == []


@pytest.mark.parametrize("package", ["planner", "planner.testing", "executor.library"])
def test_the_api_pages_list_every_public_name(package: str) -> None:
    """Read, not imported: the library needs torch."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    page = (ROOT / "docs" / "api" / f"{package.rpartition('.')[2]}.md").read_text()
    listed = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (?:[\w.]+\.)?(\w+)$", page, flags=re.M))
    assert set(names) <= listed, set(names) - listed
