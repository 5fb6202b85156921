"""Law: an unknown GPU in a spec is a fault in every command; --strict refuses warnings and memory that does not fit.

Without --strict neither hinders a plan, and a plan document, which may be of another machine, is read in any case.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from planner import compile_spec, load_spec
from planner.cli import main
from tests import EXAMPLES

LLAVA, COLOCATED = EXAMPLES / "llava_8gpu.yaml", EXAMPLES / "llava_8gpu_colocated.yaml"
COMMANDS = ("plan", "predict", "report", "diff")


def run(command: str, path: Path, *options: str) -> int:
    more = {"report": ["-o", str(path.with_suffix(".html"))], "diff": [str(LLAVA)]}
    return main([command, str(path), *more.get(command, []), *options])


def written(folder: Path, source: Path, old: str, new: str) -> Path:
    text = source.read_text()
    assert old in text
    path = folder / "spec.yaml"
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ("gh200", "error[S105] cluster.gpu: the GPU is one of"),
        ("none.yaml", "error[S001] cluster.gpu: none.yaml cannot"),
    ],
)
def test_a_gpu_that_is_not_there_is_a_fault_where_it_stands(
    command: str, gpu: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, LLAVA, "gpu: h100", f"gpu: {gpu}")
    assert run(command, path) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"{path}:4:39: {said}")
    assert captured.out == ""
    assert not path.with_suffix(".html").exists()


def test_it_is_told_together_with_other_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, written(tmp_path, LLAVA, "gpu: h100", "gpu: gh200"), "micro_size: 4", "micro_size: 5")
    assert run("plan", path) == 1
    said = capsys.readouterr().err
    assert said.index("S105") < said.index("B001")


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_another_gpu_on_the_command_line_takes_its_place(command: str, tmp_path: Path) -> None:
    assert run(command, written(tmp_path, LLAVA, "gpu: h100", "gpu: gh200"), "--gpu", "b200") == 0


def test_a_plan_document_with_an_unknown_gpu_is_read_unless_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(compile_spec(load_spec(written(tmp_path, LLAVA, "gpu: h100", "gpu: gh200"))).to_json())
    assert run("plan", path) == 0
    assert "h100 is assumed: cluster.gpu 'gh200' is none of" in capsys.readouterr().out
    assert run("plan", path, "--strict") == 1
    assert "error[S105] cluster.gpu" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_memory_that_does_not_fit_is_refused_when_strict(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, COLOCATED, "micro_size: 16", "micro_size: 48")
    assert run(command, path) == 0
    captured = capsys.readouterr()
    assert ("DOES NOT FIT" in captured.out) == (command != "report")
    assert ("warning[W006] modules.language: memory of rank 0 " in captured.err) == (command != "plan")
    path.with_suffix(".html").unlink(missing_ok=True)
    assert run(command, path, "--strict") == 1
    captured = capsys.readouterr()
    assert f"{path}:7:3: warning[W006] modules.language: memory of rank 0 (language stage 0) <= 79 GiB" in captured.err
    assert captured.out == ""
    assert not path.with_suffix(".html").exists()
    assert run(command, path, "--strict", "--gpu", "b200") == 0


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_what_is_beyond_doubt_passes(command: str, tmp_path: Path) -> None:
    path = written(tmp_path, LLAVA, "gpu: h100", "gpu: h100")
    assert run(command, path, "--strict") == 0
    plan = tmp_path / "plan.json"
    assert main(["plan", str(path), "--out", str(plan)]) == 0
    assert run(command, plan, "--strict") == 0


@pytest.mark.parametrize("command", COMMANDS[:3])
def test_warnings_of_the_passes_are_refused_when_strict(command: str, tmp_path: Path) -> None:
    path = written(tmp_path, LLAVA, "{tp: 2, pp: 2", "{sequence_parallel: true, pp: 4")  # without tp
    assert [run(command, path), run(command, path, "--strict")] == [0, 1]
