"""A user's own runs of any layout: predicted from a CSV file of specs, and constants fitted to them."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import attrs
import pytest

from planner import compile_spec, load_spec
from planner.cli import main
from planner.cost.measured.calibrate import fitted
from planner.cost.measured.nelder_mead import minimise
from planner.cost.predict import predict
from planner.cost.timing.hardware import (
    Hardware,
    constants,
    hardware_text,
    known_hardware,
    load_hardware,
    parse_hardware,
)
from planner.cost.work.settings import EXECUTOR, Settings
from tests import DATA, ROOT

RUNS = DATA / "runs"
CONSTANTS = ("product_tflops", "memory_gb_s")


def spec_text(tp: int, micro: int = 4, gpu: str = "h100") -> str:
    text = (ROOT / "examples" / "llava_8gpu.yaml").read_text()
    for before, after in (
        ("parallel: {tp: 2, pp: 2}", f"parallel: {{tp: {tp}, pp: 2}}"),
        ("global_size: 96", f"global_size: {4 * micro}"),
        ("micro_size: 4", f"micro_size: {micro}"),
    ):
        assert before in text
        text = text.replace(before, after)
    lines = [line for line in text.splitlines() if not line.startswith("cluster:")]
    return "\n".join([*lines, f"cluster: {{gpus_per_node: 8, gpu: {gpu}}}", ""])


def truth() -> Hardware:
    """An H100 that is not the one of the file."""
    hardware = load_hardware("h100")
    factors = dict(zip(CONSTANTS, (0.85, 1.2), strict=True))
    changes = {
        name: attrs.evolve(constant, value=factors.get(name, 1.0) * (constant.start or constant.value))
        for name, constant in constants(hardware).items()
    }
    return attrs.evolve(hardware, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Specs, and a CSV file of what they took on that H100."""
    rows = ["spec,ms,GiB"]
    for tp in (1, 2, 4):
        for micro in (2, 4):
            name = f"tp{tp}_{micro}.yaml"
            (tmp_path / name).write_text(spec_text(tp, micro))
            found = predict(compile_spec(load_spec(tmp_path / name)), truth())
            gib = max(peak.memory.total for peak in found.peaks) / 2**30
            rows.append(f"{name},{1e3 * found.step_seconds:.4f},{gib:.6f}")
    (tmp_path / "runs.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text)))


def test_rows_are_predicted_as_their_specs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files are looked for beside the CSV file, wherever the command runs."""
    assert main(["predict", "--csv", str(folder / "runs.csv")]) == 0
    out, err = capsys.readouterr()
    for row in table(out):
        found = predict(compile_spec(load_spec(folder / row["spec"])))
        assert float(row["predicted_ms"]) == pytest.approx(
            1e3 * found.step_seconds, rel=1e-3
        )  # a closed form, else equal
        assert float(row["predicted_GiB"]) == pytest.approx(float(row["GiB"]), abs=1e-5)
    assert "time of 6 measured runs: mean error " in err
    assert "memory of 6 measured runs: mean error 0.0%" in err


def test_a_program_reads_the_same_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, runs = folder / "json.yaml", str(folder / "runs.csv")
    assert main(["calibrate", runs, "-o", str(out), "--leave-out", "spec", "--json"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    found, written = json.loads(told.out), load_hardware(str(out))
    assert found["constants"]["nvlink_gb_s"]["value"] == written.nvlink_gb_s.value
    (file,) = found["files"]
    assert (file["file"], file["runs"]) == (runs, 6)
    assert 0 <= file["fitted"]["mean_error"] <= file["fitted"]["largest_error"]
    assert file["left_out"]["mean_error"] >= file["fitted"]["mean_error"]
    assert main(["calibrate", runs, "--json"]) == 2
    assert "give -o FILE for the hardware file" in capsys.readouterr().err


def test_a_fit_finds_the_gpu_that_ran(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And `--gpu` takes the file that it writes."""
    out = folder / "own.yaml"
    assert main(["calibrate", str(folder / "runs.csv"), "-o", str(out), "--leave-out", "spec"]) == 0
    said = capsys.readouterr().err
    assert "fitting to 6 runs" in said
    assert "each spec predicted by constants fitted to the others:" in said
    found, before = load_hardware(str(out)), load_hardware("h100")
    for name in CONSTANTS:
        wanted = getattr(truth(), name).value
        assert abs(getattr(found, name).value / wanted - 1) < 0.5 * abs(getattr(before, name).start / wanted - 1)
        assert f"  {name} " in said
    assert main(["predict", "--csv", str(folder / "runs.csv"), "--gpu", str(out)]) == 0
    rows = table(capsys.readouterr().out)
    assert max(abs(float(row["predicted_ms"]) / float(row["ms"]) - 1) for row in rows) < 0.02


def test_metrics_of_the_executor_are_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The median step without the first, predicted as the executor's models are."""
    steps = [{"step": step, "seconds": seconds, "device": "NVIDIA H100"} for step, seconds in enumerate((99, 2, 1, 3))]
    (folder / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    (folder / "m.csv").write_text("spec,metrics\ntp2_4.yaml,steps.jsonl\n")
    assert main(["predict", "--csv", str(folder / "m.csv")]) == 0
    out, err = capsys.readouterr()
    (row,) = table(out)
    plan = compile_spec(load_spec(folder / "tp2_4.yaml"))
    assert float(row["predicted_ms"]) == pytest.approx(1e3 * predict(plan, settings=EXECUTOR).step_seconds, rel=1e-6)
    assert predict(plan, settings=EXECUTOR).worst.total != predict(plan, settings=Settings()).worst.total
    assert f"mean error {abs(float(row['predicted_ms']) / 2000 - 1):.1%}" in err


def test_a_plan_document_is_a_spec_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plan.json").write_text(compile_spec(load_spec(folder / "tp2_4.yaml")).to_json())
    (folder / "p.csv").write_text("spec\nplan.json\ntp2_4.yaml\n")
    assert main(["predict", "--csv", str(folder / "p.csv")]) == 0
    first, second = table(capsys.readouterr().out)
    assert first["predicted_ms"] == second["predicted_ms"]


def stopping() -> str:
    """Two modules with pipelines on the same ranks: the schedule ends in a circle."""
    text = (ROOT / "examples" / "llava_8gpu_colocated.yaml").read_text()
    found = re.sub(r"parallel: .*", "parallel: {dp: 4, pp: 2}", text)
    assert found.count("pp: 2") == 2
    return found.replace("clip-vit-l-14-336}", "clip-vit-l-14-336, num_layers: 24}")


FAULTY = {
    "no such spec": ("spec,ms\nnone.yaml,5\n", "runs.csv:2:1: error[S001]", "No such file"),
    "no spec": ("spec,ms\n ,5\n", "runs.csv:2:2: error[S102] spec: ", "names its spec file"),
    "a faulty spec": ("spec,ms\nfaulty.yaml,5\n", "faulty.yaml:1:1: error[S101]", "'nonsense' is not a key"),
    "a spec without sizes": ("spec,ms\nbare.yaml,5\n", "runs.csv:2:1: error[S102] spec: ", "no model is given for l"),
    "no time": ("spec,ms\ntp1_2.yaml,\n", "runs.csv:2:12: error[S103] ms: ", "a measured run has ms, got nothing"),
    "no column of times": ("spec\ntp1_2.yaml\n", "runs.csv:2:1: error[S103] ms: ", "a measured run has ms"),
    "a negative time": ("spec,ms\ntp1_2.yaml,-1\n", "runs.csv:2:12: error[S103] ms: ", "above 0, got '-1'"),
    "no rows": ("spec,ms\n", "runs.csv:1:1: error[S102] row: ", "a measured run or more, got none"),
    "no metrics": ("spec,metrics\ntp1_2.yaml,none.jsonl\n", "runs.csv:2:12: error[S001] metrics: ", "No such file"),
    "other metrics": ("spec,metrics\ntp1_2.yaml,runs.csv\n", "runs.csv:2:12: error[S103] metrics: ", "line 1 of "),
    "metrics of a CPU": ("spec,metrics\ntp1_2.yaml,cpu.jsonl\n", "error[S107] metrics: ", "got the device cpu"),
    "empty metrics": ("spec,metrics\ntp1_2.yaml,empty.jsonl\n", "error[S103] metrics: ", "a step or more, got none"),
    "a plan that stops": ("spec,ms\nstops.yaml,5\n", "error[S107] row: the schedule stops", "fix: give modules that"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_rows_that_cannot_be_fitted_say_why(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "faulty.yaml").write_text("nonsense: 1\n" + spec_text(2))
    bare = "schema: 1\nbatch: {global_size: 1, micro_size: 1, seq_length: 8}\nmodules: {language: {}}\n"
    (folder / "bare.yaml").write_text(bare)
    (folder / "cpu.jsonl").write_text('{"seconds": 1.0, "device": "cpu"}\n')
    (folder / "empty.jsonl").write_text("")
    (folder / "stops.yaml").write_text(stopping())
    text, *wanted = FAULTY[name]
    (folder / "runs.csv").write_text(text)
    assert main(["calibrate", str(folder / "runs.csv"), "--gpu", "h100", "-o", str(folder / "own.yaml")]) == 1
    error = capsys.readouterr().err
    assert all(part in error for part in wanted), error
    assert "; fix: " in error
    assert not (folder / "own.yaml").exists()


def first_runs(number: int, path: Path) -> None:
    """The first of the published runs on one node, and what they name beside them."""
    path.write_text("".join((RUNS / "a100_single_node_given.csv").read_text().splitlines(keepends=True)[: number + 1]))
    for file in RUNS.glob("*.yaml"):
        (path.parent / file.name).write_text(file.read_text())


def test_a_sweep_in_one_file_leaves_out_what_a_path_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One spec and its overrides are the same runs as a spec for each."""
    header, *rows = (folder / "runs.csv").read_text().splitlines()
    sweep = ["spec,modules.language.parallel.tp,batch.micro_size,batch.global_size,ms,GiB"]
    for row in rows:
        name, *measured = row.split(",")
        tp, micro = name.removeprefix("tp").removesuffix(".yaml").split("_")
        sweep.append(",".join(["tp1_2.yaml", tp, micro, str(4 * int(micro)), *measured]))
    (folder / "sweep.csv").write_text("\n".join(sweep))
    outputs = []
    for file, column in (("runs.csv", None), ("sweep.csv", "modules.language.parallel.tp")):
        leave_out = ["--leave-out", column] if column else []
        assert main(["calibrate", str(folder / file), "-o", str(folder / "own.yaml"), *leave_out]) == 0
        outputs.append((folder / "own.yaml").read_text())
    assert outputs[0] == outputs[1]
    said = capsys.readouterr().err
    assert "each modules.language.parallel.tp predicted by constants fitted to the others:" in said
    assert said.count(", mean error ") == 3
    assert header == "spec,ms,GiB"


def test_what_runs_cannot_tell_is_left_alone_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run inside a node says nothing of networks, and cannot tell the others apart."""
    first_runs(1, tmp_path / "one.csv")
    assert main(["calibrate", str(tmp_path / "one.csv"), "-o", str(tmp_path / "own.yaml")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    before, after = load_hardware("a100"), load_hardware(str(tmp_path / "own.yaml"))
    assert after.network_gb_s == before.network_gb_s
    assert after.product_tflops != before.product_tflops
    assert after.product_tflops.source == "fitted to one measured run"
    assert "1 run cannot tell" in said
    assert "no run depends on network_gb_s" in said


def test_runs_of_another_gpu_are_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first_runs(11, tmp_path / "some.csv")
    assert main(["calibrate", str(tmp_path / "some.csv"), "--gpu", "h100"]) == 0
    assert "times its start: check that the runs are of h100" in " ".join(capsys.readouterr().err.split())


MISUSE = {
    "a name that --gpu does not take": ("runs.csv", "-o", "own.txt"),
    "a directory": ("runs.csv", "-o", "folder.yaml"),
    "no such directory": ("runs.csv", "-o", "none/own.yaml"),
    "over its own runs": ("other.csv", "runs.yaml", "-o", "runs.yaml"),
    "no such column": ("runs.csv", "--leave-out", "width"),
    "all runs left out": ("runs.csv", "--leave-out", "same"),
    "two GPUs": ("two.csv",),
    "no GPU": ("none.csv",),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_said_before_the_fit(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("folder.yaml").mkdir()
    runs = "spec,ms,same\ntp2_4.yaml,3,1\ntp4_4.yaml,4,1\n"
    for file in ("runs.csv", "runs.yaml", "other.csv"):
        Path(file).write_text(runs)
    Path("b200.yaml").write_text(spec_text(2, gpu="b200"))
    Path("two.csv").write_text("spec,ms\ntp2_4.yaml,3\nb200.yaml,3\n")
    Path("some.yaml").write_text(spec_text(2).replace(", gpu: h100", ""))
    Path("none.csv").write_text("spec,ms\ntp2_4.yaml,3\nsome.yaml,3\n")
    assert main(["calibrate", *MISUSE[name]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mimo: ")
    assert err.count("\n") == 1
    assert Path("runs.yaml").read_text() == runs


def test_progress_is_told_from_begin_to_end() -> None:
    told: list[float] = []
    best = minimise(lambda point: (point[0] - 3) ** 2, (1.0,), steps=20, rounds=2, progress=told.append)
    assert best[0] == pytest.approx(3, abs=1e-3)
    assert told == [step / 40 for step in range(40)]


def test_a_fit_that_is_interrupted_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "own.yaml"
    with subprocess.Popen(
        [sys.executable, "-m", "planner.cli", "calibrate", str(RUNS / "a100_single_node_given.csv"), "-o", str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"fitting to 432 runs ...\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", known_hardware())
def test_a_hardware_file_is_read_back_as_it_was(name: str) -> None:
    hardware = load_hardware(name)
    assert parse_hardware(hardware_text(hardware)) == hardware
    odd = attrs.evolve(
        hardware,
        name='a: "b" # c\\',
        hop_us=attrs.evolve(hardware.hop_us, value=1 / 3, source='says "2 us" in C:\\new'),
    )
    assert parse_hardware(hardware_text(odd)) == odd
    assert fitted(hardware)
