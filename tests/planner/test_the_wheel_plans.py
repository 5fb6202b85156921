"""Law: what `python -m build` makes is whole. Installed where nothing else is, it plans as the checkout does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from tests import ROOT

PACKAGES = ("planner", "executor")
BESIDE = ("LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml")  # in the source distribution
FOLDERS = ("tests", "docs", "examples", "benchmarks")  # there too
UNREACHED = "connection broken by"  # what pip says of an index that it cannot reach, and of nothing else


def run(*command: str | Path, cwd: Path) -> str:
    """Run outside the checkout, with nothing of it on Python's path. Fails with all that the command printed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COLUMNS")}
    done = subprocess.run(command, check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel made from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def fresh(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the wheel and what it depends on, and nothing else."""
    pytest.importorskip("ensurepip", reason="this Python makes no environments with pip: apt-get install python3-venv")
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    try:
        run(folder / "bin" / "pip", "install", "--quiet", "--retries", "1", next(built.glob("*.whl")), cwd=folder)
    except AssertionError as error:
        if UNREACHED in str(error):
            pytest.skip("no package index can be reached: what the wheel depends on cannot be installed")
        raise
    return folder / "bin"


def files_of(package: str) -> set[str]:
    """What a package holds in the checkout, bytecode aside."""
    paths = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_wheel_holds_both_packages_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {"planner/hardware/h100.yaml", "planner/report/page/page.html", "planner/report/page/main.js"} <= names
    about = {name for name in names if PurePosixPath(name).parts[0].endswith(".dist-info")}
    assert any(name.endswith("/licenses/LICENSE") for name in about)
    assert names - about == files_of("planner") | files_of("executor")


def test_the_source_distribution_holds_tests_docs_and_examples(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(BESIDE) <= names
    for folder in FOLDERS:
        inside = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob("*") if path.is_file()}
        assert inside, folder
        assert inside <= names, folder


def test_a_fresh_environment_plans_as_the_checkout_does(fresh: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "llava_8gpu.yaml", tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert run(fresh / "mimo", "--version", cwd=tmp_path) == f"mimo {project['version']}\n"
    planned = run(fresh / "mimo", "plan", "llava_8gpu.yaml", cwd=tmp_path)
    golden = (ROOT / "tests" / "golden" / "llava_8gpu.txt").read_text()
    assert planned == golden.removeprefix("exit 0\n").replace("examples/", "")


def test_a_fresh_environment_predicts_and_reports(fresh: Path, tmp_path: Path) -> None:
    """The files that are read when they are needed: hardware, and the parts of the page."""
    shutil.copy(ROOT / "examples" / "tiny_4rank.yaml", tmp_path)
    assert "tokens/s" in run(fresh / "mimo", "predict", "tiny_4rank.yaml", "--gpu", "a100", cwd=tmp_path)
    run(fresh / "mimo", "report", "tiny_4rank.yaml", "-o", "report.html", cwd=tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "function drawTimeline(" in page
    assert "prefers-color-scheme" in page


def test_planning_needs_no_more_than_the_wheel_asks_for(fresh: Path, tmp_path: Path) -> None:
    """Every file of the planner can be imported without torch and, `planner.testing` aside, without test tools."""
    program = (
        "import importlib, pkgutil, planner\n"
        "for found in pkgutil.walk_packages(planner.__path__, 'planner.'):\n"
        "    if not found.name.startswith('planner.testing'):\n"
        "        importlib.import_module(found.name)\n"
    )
    run(fresh / "python", "-c", program, cwd=tmp_path)
