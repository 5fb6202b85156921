"""Law: the prediction in `mimo plan` is a few lines, and never keeps a plan from being printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs
import pytest
from hypothesis import given

from planner import Batch, Cluster, Model, Module, Parallel, Plan, Spec, compile_spec, load_spec
from planner.cli import main
from planner.cost.predict import predict
from planner.cost.simulation.words import duration
from planner.cost.timing.hardware import hardware_text, load_hardware
from planner.render.costs import costs_document
from planner.render.overview import overview
from planner.render.style import Style
from planner.render.summary import MAX_PASSES, prediction_lines
from tests import EXAMPLES
from tests.strategies import Case, cases


def lines_of(plan: Plan) -> list[str]:
    return prediction_lines(plan, Style(width=80))


def llava(gpu: str | None, **batch: int) -> Plan:
    spec = load_spec(EXAMPLES / "llava_8gpu.yaml")
    cluster = Cluster(nodes=1, gpus_per_node=8, gpu=gpu)
    return compile_spec(attrs.evolve(spec, cluster=cluster, batch=attrs.evolve(spec.batch, **batch)))


@given(cases())
def test_every_plan_has_its_picture_and_a_prediction(case: Case) -> None:
    """Whatever the sizes and layouts, numbers are finite, or the schedule stops and says who waits for whom."""
    plan = case.plan()
    found = predict(plan)
    assert (found.timeline is None) == bool(found.deadlock)
    assert found.step_seconds >= 0
    assert 0 <= found.bubble <= 1
    assert found.timeline is None or found.step_seconds < float("inf")
    sized = all(module.model for module in plan.modules)
    text = overview(plan, "spec.yaml", Style(width=80))
    assert ("\nPrediction\n" in text) == sized
    if sized:
        assert [line for line in lines_of(plan) if len(line) > 80 and " " in line.strip()] == []


def test_the_lines_are_those_of_the_prediction() -> None:
    plan = llava("h100")
    found = predict(plan)
    step, path, memory = lines_of(plan)
    assert duration(found.step_seconds) in step
    assert f"{found.bubble:.1%}" in step
    assert path.endswith(found.critical_path[0])
    assert f"rank {found.worst.rank} " in memory
    assert "fits" in memory


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ("h100", []),
        ("b200", []),
        (None, ["  h100 is assumed: the spec names no cluster.gpu"]),
        (
            "tpu9",
            ["  h100 is assumed: cluster.gpu 'tpu9' is none of a100, b200, h100, h20, h200,", "    h800"],
        ),
        ("none.yaml", ["  h100 is assumed: cluster.gpu 'none.yaml' cannot be read"]),
    ],
)
def test_the_gpu_that_is_assumed_is_said(gpu: str | None, said: list[str]) -> None:
    lines = lines_of(llava(gpu))
    assert lines[3:] == said
    assert ("b200" in lines[0]) == (gpu == "b200")


def test_memory_that_does_not_fit_by_a_little_says_how_much(tmp_path: Path) -> None:
    """ "72.6 of 72.6 GiB" would read as if it fitted."""
    gpu, total = load_hardware("h100"), predict(llava("h100")).worst.total
    limit = attrs.evolve(gpu.memory_gib, value=total / 2**30 - 0.01)
    (tmp_path / "tight.yaml").write_text(hardware_text(attrs.evolve(gpu, name="tight", memory_gib=limit)))
    said = " ".join(" ".join(lines_of(llava("h100"))).split())
    assert "too much" not in said
    plan = attrs.evolve(llava("h100"), cluster=Cluster(nodes=1, gpus_per_node=8, gpu=str(tmp_path / "tight.yaml")))
    said = " ".join(" ".join(lines_of(plan)).split())
    assert f"{total / 2**30:.1f} of {limit.value:g} GiB, 0.1 too much; " in said


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_times_that_are_not_of_the_specs_dtype_are_said(dtype: str) -> None:
    plan = llava("h100")
    plan = attrs.evolve(plan, training=attrs.evolve(plan.training, dtype=dtype))
    note = "kernels are timed as in bf16: those in fp32 take longer"
    assert (note in costs_document(predict(plan))["notes"]) == (dtype == "fp32")
    assert (f"  {note}" in lines_of(plan)) == (dtype == "fp32")


def test_a_hardware_file_with_faults_is_not_called_unknown(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nhop_us: {value: 1, source: x}\n")
    said = " ".join(" ".join(lines_of(llava(str(tmp_path / "mine.yaml")))[3:]).split())
    assert said.startswith("h100 is assumed: cluster.gpu '")
    assert "mine.yaml' has faults, the first: num_sms is required" in said


def test_what_would_take_long_is_left_to_predict() -> None:
    (line,) = lines_of(llava("h100", global_size=MAX_PASSES))
    assert "mimo predict" in line


def test_what_is_too_large_to_be_predicted_is_said() -> None:
    assert lines_of(llava("h100", global_size=4 * MAX_PASSES))[0].startswith("  none: the passes of a step")


def test_a_spec_without_sizes_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(EXAMPLES / "qwen35_vl_17rank.yaml")]) == 0
    assert "Prediction" not in capsys.readouterr().out


def test_a_schedule_that_stops_is_said() -> None:
    spec: Spec = load_spec(EXAMPLES / "llava_8gpu_colocated.yaml")
    modules = {
        name: attrs.evolve(module, parallel=attrs.evolve(module.parallel, tp=1, dp=4, pp=2))
        for name, module in spec.modules.items()
    }
    modules["images"] = attrs.evolve(modules["images"], stages=(12, 11))
    plan = compile_spec(attrs.evolve(spec, modules=modules))
    found = predict(plan)
    assert found.pipeline_seconds == float("inf")
    assert lines_of(plan)[0].startswith("  no step time: the schedule stops for good: ")
    document = costs_document(found)
    assert document["notes"][0].startswith("no step time: the schedule stops for good: ")
    of_a_step = ("step_seconds", "pipeline_seconds", "bubble", "tokens_per_second", "tflops_per_gpu", "mfu")
    assert [document[name] for name in of_a_step] == [None] * 6
    json.dumps(document, allow_nan=False)


def test_another_gpu_may_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(EXAMPLES / "llava_8gpu.yaml")
    assert main(["plan", spec, "--gpu", "b200"]) == 0
    step = next(line for line in capsys.readouterr().out.splitlines() if "step on" in line)
    assert main(["predict", spec, "--gpu", "b200", "--json"]) == 0
    seconds = json.loads(capsys.readouterr().out)["step_seconds"]
    assert step.startswith(f"  step on b200: {duration(seconds)}, ")
    assert main(["plan", spec, "--gpu", "b201"]) == 1
    assert 'did you mean "b200"?' in capsys.readouterr().err
    assert main(["plan", spec, "--gpu", "b200", "--rank", "0"]) == 2
    assert "--gpu is for the prediction" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["llava_8gpu", "llava_8gpu_colocated", "llama70b_1024gpu", "tiny_4rank"])
def test_plan_and_predict_show_the_same_numbers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The digits are the same, and the parts of the fullest rank add up to its total."""
    spec = str(EXAMPLES / f"{name}.yaml")
    assert main(["plan", spec]) == 0
    short = capsys.readouterr().out.partition("\nPrediction\n")[2]
    assert main(["predict", spec]) == 0
    words = " ".join(capsys.readouterr().out.split())
    seconds, tokens, mfu, bubble = re.findall(r": (\S+ \S+), (\S+) tokens/s, (MFU \S+), (bubble \S+)", short)[0]
    said = (f"step time {seconds} ", f"tokens/s {tokens} ", f"{mfu} ", f"{bubble} ")
    assert [part for part in said if part not in words] == []
    peaks = re.findall(r" (\d+) (\d+\.\d\d) \d+\.\d\d((?: \d+\.\d\d){3})", words.partition(" to spare ")[2])
    assert len(peaks) == len(compile_spec(load_spec(spec)).modules)
    for _, total, parts in peaks:
        assert sum(map(float, parts.split())) == pytest.approx(float(total), abs=0.021)
    rank, worst = re.findall(r"rank (\d+) \(.*\) needs most, (\S+) of", short)[0]
    assert (rank, float(worst)) in [(rank, round(float(total), 1)) for rank, total, _ in peaks]


@pytest.mark.parametrize(
    ("cluster", "num_gpus", "is_said"),
    [(None, 16, True), (None, 8, False), (Cluster(gpus_per_node=8, gpu="h100"), 16, False)],
)
def test_nodes_that_are_assumed_are_said(cluster: Cluster | None, num_gpus: int, is_said: bool) -> None:
    """The spec does not say how many GPUs a node has, and there are more ranks than on one node."""
    language = Module(parallel=Parallel(dp=num_gpus), model=Model(preset="vicuna-7b"))
    batch = Batch(global_size=num_gpus, micro_size=num_gpus, seq_length=512)
    plan = compile_spec(Spec(cluster=cluster, batch=batch, modules={"language": language}))
    note = "nodes of 8 GPUs are assumed: give `cluster: {gpus_per_node: N}`"
    assert (note in costs_document(predict(plan))["notes"]) == is_said
    assert (f"  {note}" in lines_of(plan)) == is_said
