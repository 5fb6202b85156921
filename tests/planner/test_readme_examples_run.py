"""The README's examples run, and print what it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from planner import Plan, compile_spec, parse_spec
from planner.cli import main
from planner.layout.ir import GroupKind
from tests import ROOT
from tests.strategies import proven

if TYPE_CHECKING:
    import pytest

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)
    assert found
    return found


def test_console_examples_print_what_the_readme_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "80")
    examples = [block for block in blocks("console") if block.startswith("$ mimo ")]
    assert len(examples) == 2
    for block in examples:
        command, _, shown = block.partition("\n")
        main(command.removeprefix("$ mimo ").split())
        captured = capsys.readouterr()
        assert captured.out + captured.err == shown


def test_the_spec_plans() -> None:
    (block,) = blocks("yaml")
    assert proven(compile_spec(parse_spec(block, "README.md"))).world_size == 8


def test_python_examples_run() -> None:
    build, ask, _ = blocks("python")  # the third needs ranks: tests/executor/test_own_loops_train_as_trainer_does.py
    names: dict[str, object] = {}
    exec(build, names)  # noqa: S102  the README's own code
    plan = names["plan"]
    assert isinstance(plan, Plan)
    proven(plan)
    for line in ask.splitlines():
        expression, _, comment = line.partition("#")
        value = eval(expression, {"plan": plan})  # noqa: S307
        if comment.strip().startswith(("((", "slice")):
            shown = re.split(r", in |: ", comment)[0].strip()
            assert value == eval(shown)  # noqa: S307


def test_torchrun_commands_take_any_free_port() -> None:
    """Two runs on one machine would meet at torchrun's default port."""
    (block,) = blocks("sh")
    commands = [line for line in block.splitlines() if line.startswith("torchrun ")]
    assert commands
    assert all(" --standalone " in command for command in commands)


def test_the_readme_names_every_group_kind() -> None:
    for kind in GroupKind:
        assert re.search(rf"\b{kind}\b", README), kind


def test_the_readme_holds_no_placeholder() -> None:
    assert not re.search(r"^[A-Z]{4,}$|TODO|FIXME", README, flags=re.M)
