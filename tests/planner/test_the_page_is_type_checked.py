"""The scripts of the report's page are type-checked: what they read is what `planner.report.content` holds.

`planner/report/page/content.d.ts` declares the classes of content.py for the scripts. A test compares it with them;
run with --update-golden after a wanted change. TypeScript comes from npm by itself; without npm, or without a way to
its registry, the check is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import types
import typing
from pathlib import Path

import attrs
import pytest

from planner.report import content

PAGE = Path(content.__file__).parent / "page"
DECLARATIONS = PAGE / "content.d.ts"
TYPESCRIPT = "typescript@7.0.2"
NO_NETWORK = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")  # codes of npm
WORDS = {int: "number", float: "number", str: "string", bool: "boolean", types.NoneType: "null"}


def declared() -> str:
    """Every class of content.py as an interface."""
    classes = [one for one in vars(content).values() if attrs.has(one)]
    lines = [line for one in classes for line in ("", f"  interface {one.__name__} {{", *_fields(one), "  }")]
    head = f"// The classes of content.py, as {Path(__file__).name} writes them with --update-golden."
    return "\n".join([head, "", "declare namespace Content {", *lines[1:], "}", ""])


def _fields(one: type[attrs.AttrsInstance]) -> list[str]:
    hints = typing.get_type_hints(one)
    return [f"    {field.name}: {_type(hints[field.name])};" for field in attrs.fields(one)]


def _type(hint: typing.Any) -> str:
    if attrs.has(hint):
        name: str = hint.__name__
        return name
    if hint in WORDS:
        return WORDS[hint]
    arguments = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return " | ".join(map(_type, arguments))
    assert typing.get_origin(hint) is tuple, hint
    if arguments[1:] == (...,):
        return f"{_type(arguments[0])}[]"
    return f"[{', '.join(map(_type, arguments))}]"


def test_the_scripts_declare_the_content_that_the_page_holds(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        DECLARATIONS.write_text(declared())
    assert DECLARATIONS.read_text() == declared()


def complaints(folder: Path) -> str:
    """What TypeScript finds in a folder of scripts; empty if nothing."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on the PATH: the page's scripts are not type-checked")
    command = [npm, "exec", "--yes", f"--package={TYPESCRIPT}", "--", "tsc", "--project", folder / "jsconfig.json"]
    settings = {"npm_config_fetch_retries": "0", "npm_config_update_notifier": "false"}
    done = subprocess.run(
        command, check=False, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, timeout=300
    )
    if any(code in done.stderr for code in NO_NETWORK):
        pytest.skip(f"npm cannot fetch {TYPESCRIPT}: the page's scripts are not type-checked")
    assert done.returncode == 0 or done.stdout, done.stderr
    return done.stdout


def test_the_scripts_have_no_type_errors() -> None:
    assert complaints(PAGE) == ""


def test_a_planted_type_error_is_found(tmp_path: Path) -> None:
    """A script that reads what the content does not hold."""
    folder = shutil.copytree(PAGE, tmp_path / "page")
    script = folder / "ranks.js"
    text = script.read_text()
    assert text.count("report.num_ranks") > 1
    script.write_text(text.replace("report.num_ranks", "report.num_gpus", 1))
    found = complaints(folder)
    assert "ranks.js" in found
    assert "'num_gpus' does not exist on type 'Report'" in found
