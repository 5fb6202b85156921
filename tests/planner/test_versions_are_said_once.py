"""Law: the version stands in pyproject.toml, and both commands say that one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from executor.commands import cli as executor_cli
from planner import cli
from planner.base.version import package_version
from tests import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_checkouts_version_is_that_of_its_project() -> None:
    assert package_version() == VERSION


@pytest.mark.parametrize("beside", ["", "[project]\nname = 'other'\nversion = '1'\n", "[tool.ruff]\n"])
def test_an_installed_package_says_the_version_of_its_metadata(
    beside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever lies beside it in site-packages."""
    file = tmp_path / "pyproject.toml"
    if beside:
        file.write_text(beside)
    monkeypatch.setattr("planner.base.version._CHECKOUT", str(file))
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 9")
    assert package_version() == "mimo-planner 9"


def test_both_commands_say_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    for main, start in ((cli.main, f"mimo {VERSION}\n"), (executor_cli.main, f"executor {VERSION} (")):
        with pytest.raises(SystemExit) as end:
            main(["--version"])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(start)
