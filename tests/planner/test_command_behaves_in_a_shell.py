"""Law: the command behaves as a shell expects: exit codes, streams, pipes, overrides, files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner import Plan
from planner.base.codes import CODES
from planner.cli import main
from planner.testing import PlanOf
from tests import ROOT

LLAVA = str(ROOT / "examples" / "llava_8gpu.yaml")


def mimo(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own, with pipes for its output."""
    return subprocess.run(
        [sys.executable, "-m", "planner.cli", *arguments],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=60,
        check=False,
    )


def test_plan_exits_0_and_a_pipe_gets_no_colour_codes() -> None:
    done = mimo("plan", LLAVA, TERM="xterm-256color")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout
    assert b"language" in done.stdout


def test_faults_exit_1_on_standard_error_alone() -> None:
    done = mimo("plan", "tests/data/faulty.yaml")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"tests/data/faulty.yaml:6:30: error[S101]" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("plan",),
        ("plan", LLAVA, "--rank", "8"),
        ("plan", LLAVA, "--rank", "-1"),
        ("plan", LLAVA, "--rank", "x"),
        ("plan", LLAVA, "--nodes", "0"),
        ("plan", LLAVA, "--world-size", "99999999999"),
        ("plan", LLAVA, "--format", "xml"),
        ("explain", "P004", "--gpu", "4"),  # which is not --gpus-per-node
        ("predict",),
        ("predict", "tests/data/runs/b200_llama_given.csv"),
        ("predict", LLAVA, "--csv", "runs.csv"),
        ("predict", "--csv", "runs.csv", "--json"),
        ("calibrate",),
        ("plan", LLAVA, "--out", "no/such/folder/plan.json"),
        ("explain", "P999"),
        ("nonsense",),
        ("diff", "-", "-"),
    ],
    ids=" ".join,
)
def test_misuse_exits_2_without_a_traceback(arguments: tuple[str, ...]) -> None:
    done = mimo(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--json",)], ids=" ".join)
def test_a_spec_without_sizes_is_a_fault_of_predict(arguments: tuple[str, ...]) -> None:
    """It is not a step that takes no time and fits."""
    done = mimo("predict", "examples/qwen35_vl_17rank.yaml", *arguments)
    assert (done.returncode, done.stdout) == (1, b"")
    if arguments == ("--json",):
        fault = json.loads(done.stderr)
        assert (fault["code"], fault["file"], fault["line"]) == ("S102", "examples/qwen35_vl_17rank.yaml", 1)
    else:
        assert b"examples/qwen35_vl_17rank.yaml:1:1: error[S102] modules: " in done.stderr


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_file_that_could_not_be_written_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    assert main(["plan", LLAVA, "--out", str(tmp_path / "plan.json")]) == (130 if "Key" in repr(error) else 2)
    assert list(tmp_path.iterdir()) == []


def test_standard_input_is_a_spec() -> None:
    done = mimo("plan", "-", stdin=Path(LLAVA).read_bytes())
    assert done.returncode == 0
    assert done.stdout.startswith(b"<stdin>: 8 ranks")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m planner.cli plan examples/llama70b_1024gpu.yaml --format jsonl | head -1"
    done = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == b""
    assert json.loads(done.stdout)["rank"] == 0


def test_an_ascii_terminal_gets_replacements_not_an_error() -> None:
    done = mimo("plan", LLAVA, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"->" in done.stdout
    assert b"?" not in done.stdout


def test_out_writes_a_plan_that_plans_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plan_of: PlanOf
) -> None:
    path = tmp_path / "plan.json"
    assert main(["plan", LLAVA, "--out", str(path), "--verify"]) == 0
    printed = capsys.readouterr()
    assert "facts checked" in printed.err
    assert Plan.from_json(path.read_text()) == plan_of(LLAVA)
    assert main(["plan", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == printed.out.splitlines()[1:]  # all but the name of the file
    assert list(tmp_path.iterdir()) == [path]


def test_a_compiled_plan_takes_no_overrides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plan_of: PlanOf
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_of(LLAVA).to_json())
    assert main(["plan", str(path), "--nodes", "2"]) == 2
    assert "need its spec" in capsys.readouterr().err


def test_an_edited_plan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], plan_of: PlanOf) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_of(LLAVA).to_json().replace('"lr": 0.0001', '"lr": 0.001'))
    assert main(["plan", str(path)]) == 1
    assert "J004" in capsys.readouterr().err


def test_world_overrides_reach_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "cluster: {nodes: 1, gpus_per_node: 8}\nbatch: {global_size: 48, micro_size: 12, seq_length: 64}\n"
        "modules: {language: {parallel: {tp: 2}}, images: {parallel: {dp: 4}}}\n"
    )
    for arguments, language_ranks in (
        ([], "0-3"),
        (["--nodes", "2"], "0-11"),
        (["--gpus-per-node", "16"], "0-11"),
        (["--world-size", "12"], "0-7"),
    ):
        assert main(["plan", str(spec), *arguments]) == 0
        row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  language"))
        assert row.split()[1] == language_ranks


def test_strict_makes_warnings_errors(capsys: pytest.CaptureFixture[str]) -> None:
    uneven = ["plan", LLAVA, "--gpus-per-node", "3", "--world-size", "8"]
    assert main(uneven) == 0
    assert "W002" in capsys.readouterr().out
    assert main([*uneven, "--strict"]) == 1
    assert "W002" in capsys.readouterr().err


def test_jsonl_has_a_view_per_rank(capsys: pytest.CaptureFixture[str], plan_of: PlanOf) -> None:
    plan = plan_of(LLAVA)
    assert main(["plan", LLAVA, "--format", "jsonl"]) == 0
    views = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [view["rank"] for view in views] == list(range(8))
    for view in views:
        expected = [group.creation_index for group in plan.view(view["rank"]).groups]
        assert sorted(g["position"] for kinds in view["groups"].values() for g in kinds) == expected


def test_diff_of_equal_specs_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", LLAVA, LLAVA]) == 0
    assert capsys.readouterr().out == "no difference: the plans are equal\n"


def test_diff_names_exactly_the_ranks_that_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = tmp_path / "after.yaml"
    after.write_text(Path(LLAVA).read_text().replace("special_token_id: 32000", "special_token_id: 32001"))
    assert main(["diff", LLAVA, str(after)]) == 0
    assert capsys.readouterr().out == "images: special_token_id 32000 -> 32001\ntouches 4 of 8 ranks: 4-7\n"


def test_explain_knows_every_code(capsys: pytest.CaptureFixture[str]) -> None:
    for code in CODES:
        assert main(["explain", code.lower()]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"{code}: ")
        assert all(len(line) <= 110 for line in text.splitlines())


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].endswith("2020-12/schema")
