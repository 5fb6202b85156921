"""Law: no command writes over a file that it reads, nor two results into one file, under whatever names.

Each case is refused before any work is done, with exit code 2 and both names, and all files keep their bytes.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import EXAMPLES, ROOT

TINY = EXAMPLES / "tiny_4rank.yaml"


def mimo(folder: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "planner", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec, a hardware file, a spec that names it, a plan, and runs whose cells name spec and hardware."""
    tmp_path = tmp_path_factory.mktemp("files")
    shutil.copy(TINY, tmp_path / "spec.yaml")
    shutil.copy(ROOT / "planner" / "hardware" / "h100.yaml", tmp_path / "gpu.yaml")
    (tmp_path / "named.yaml").write_text(TINY.read_text() + "cluster: {gpu: gpu.yaml}\n")
    (tmp_path / "runs.csv").write_text("spec,cluster.gpu,ms\nspec.yaml,gpu.yaml,20\nspec.yaml,gpu.yaml,21\n")
    assert mimo(tmp_path, "plan", "spec.yaml", "--out", "plan.json").returncode == 0
    (tmp_path / "sub").mkdir()
    return tmp_path


@pytest.fixture
def folder(files: Path, tmp_path: Path) -> Path:
    return shutil.copytree(files, tmp_path / "here")


def same(name: str, folder: Path) -> str:
    return name


def absolute(name: str, folder: Path) -> str:
    return str(folder / name)


def spelt_otherwise(name: str, folder: Path) -> str:
    return f"sub/../{name}"


def symbolic(name: str, folder: Path) -> str:
    (folder / "link.yaml").symlink_to(name)
    return "link.yaml"


def hard(name: str, folder: Path) -> str:
    os.link(folder / name, folder / "hard.yaml")
    return "hard.yaml"


WAYS = [same, absolute, spelt_otherwise, symbolic, hard]
CASES = {
    "plan's spec": (("plan", "spec.yaml", "--out"), "spec.yaml"),
    "plan's plan": (("plan", "plan.json", "--out"), "plan.json"),
    "plan's --gpu": (("plan", "spec.yaml", "--gpu", "gpu.yaml", "--out"), "gpu.yaml"),
    "plan's cluster.gpu": (("plan", "named.yaml", "--out"), "gpu.yaml"),
    "report's spec": (("report", "spec.yaml", "-o"), "spec.yaml"),
    "report's --gpu": (("report", "spec.yaml", "--gpu", "gpu.yaml", "-o"), "gpu.yaml"),
    "report's cluster.gpu": (("report", "named.yaml", "-o"), "gpu.yaml"),
    "a trace's spec": (("report", "spec.yaml", "--trace"), "spec.yaml"),
    "calibrate's --gpu": (("calibrate", "runs.csv", "--gpu", "gpu.yaml", "-o"), "gpu.yaml"),
    "a cell's spec": (("calibrate", "runs.csv", "-o"), "spec.yaml"),
    "a cell's hardware": (("calibrate", "runs.csv", "-o"), "gpu.yaml"),
}


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name in CASES for way in (WAYS if name in {"plan's spec", "a cell's hardware"} else [hard])],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_an_input_keeps_its_bytes(folder: Path, name: str, way: Callable[[str, Path], str]) -> None:
    arguments, victim = CASES[name]
    given = way(victim, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    done = mimo(folder, *arguments, given)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert (done.returncode, done.stdout) == (2, ""), done
    assert f"{given} would overwrite " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("way", [same, absolute, spelt_otherwise])
def test_two_results_never_meet_in_one_file(folder: Path, way: Callable[[str, Path], str]) -> None:
    done = mimo(folder, "report", "spec.yaml", "-o", "page.html", "--trace", way("page.html", folder))
    assert done.returncode == 2
    assert "and --out page.html are one file" in done.stderr
    assert not (folder / "page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", "spec.yaml", "--out", "sub"), "--out sub is a directory: name a file"),
        (("plan", "spec.yaml", "--out", "no/plan.json"), "there is no directory "),
        (("plan", "spec.yaml", "--out", ""), "--out needs the name of a file; - is standard output"),
        (("plan", "spec.yaml", "--out", "x" * 300), "cannot write"),
        (("plan", "spec.yaml", "--out", "-"), "--format json prints it alone"),
        (("report", "spec.yaml", "-o", "-", "--trace", "-"), "are both standard output"),
        (("calibrate", "runs.csv", "-o", "fit.txt"), "ends in .yaml or .yml"),
    ],
)
def test_a_name_that_cannot_be_is_one_line(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    done = mimo(folder, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_dash_is_standard_output(folder: Path) -> None:
    page, trace = (mimo(folder, "report", "spec.yaml", option, "-").stdout for option in ("-o", "--trace"))
    assert page.startswith("<!doctype html>")
    assert trace.startswith("{")
    assert not (folder / "-").exists()


def test_what_is_replaced_keeps_its_mode(folder: Path) -> None:
    (folder / "page.html").write_text("old")
    (folder / "page.html").chmod(0o640)
    assert mimo(folder, "report", "spec.yaml", "-o", "page.html").returncode == 0
    assert stat.S_IMODE((folder / "page.html").stat().st_mode) == 0o640
    assert mimo(folder, "report", "spec.yaml", "-o", "new.html", umask=0o027).returncode == 0
    assert stat.S_IMODE((folder / "new.html").stat().st_mode) == 0o640


def test_a_pipe_is_written_as_it_is_named(folder: Path) -> None:
    """The link /dev/stdout leads to no name that could be opened."""
    done = mimo(folder, "report", "spec.yaml", "-o", "/dev/stdout")
    assert (done.returncode, done.stdout[:15]) == (0, "<!doctype html>"), done.stderr


def test_a_full_disk_leaves_nothing_behind(folder: Path) -> None:
    done = mimo(folder, "report", "spec.yaml", "-o", "/dev/full")
    *notes, last = done.stderr.splitlines()
    assert done.returncode == 2
    assert all(": note[N" in line for line in notes)
    assert "cannot write /dev/full: No space left on device" in last


@pytest.mark.parametrize("number", [2, 15], ids=["SIGINT", "SIGTERM"])
def test_a_command_that_is_stopped_says_nothing_and_leaves_nothing(folder: Path, number: int) -> None:
    """At several moments. What comes before `main`, Python's start and `import planner`, is not the command's yet."""
    before = sorted(path.name for path in folder.iterdir())
    for delay in (0.06, 0.12, 0.2):
        command = [
            sys.executable,
            "-m",
            "planner",
            "report",
            str(EXAMPLES / "llama70b_1024gpu.yaml"),
            "-o",
            "page.html",
        ]
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        _, err = process.communicate(timeout=60)
        if process.returncode != 0:
            assert process.returncode in {128 + number, -number}, err
            assert "in main" not in err, err
            assert sorted(path.name for path in folder.iterdir()) == before
        (folder / "page.html").unlink(missing_ok=True)
