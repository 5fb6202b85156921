"""Law: `mimo presets` and `mimo gpus` list exactly what a spec may name, and editors offer it."""

from __future__ import annotations

import json

import pytest

from planner import PlanError, compile_spec, parse_spec
from planner.cli import main
from planner.cost.predict import predict
from planner.cost.timing.hardware import known_hardware, load_hardware
from planner.spec.presets import PRESETS

SPEC = """
cluster: {nodes: 1, gpus_per_node: 1, gpu: GPU}
batch: {global_size: 1, micro_size: 1, seq_length: 64}
modules: {language: {model: {preset: PRESET}}}
"""


@pytest.mark.parametrize(("command", "names"), [("presets", [*PRESETS]), ("gpus", known_hardware())])
def test_the_list_is_whole_and_fits_80_columns(
    command: str, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command]) == 0
    _, *rows = lines = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == names
    assert max(map(len, lines)) <= 80
    assert main([command, "--format", "json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == names


def test_a_spec_may_name_them(capsys: pytest.CaptureFixture[str]) -> None:
    for gpu in known_hardware():
        plan = compile_spec(parse_spec(SPEC.replace("GPU", gpu).replace("PRESET", "vicuna-7b")))
        assert predict(plan).hardware.name == gpu
    with pytest.raises(PlanError, match=", ".join(PRESETS)):
        compile_spec(parse_spec(SPEC.replace("PRESET", "other").replace("GPU", "h100")))
    assert main(["schema"]) == 0
    found = json.loads(capsys.readouterr().out)["$defs"]
    assert found["Model"]["properties"]["preset"]["examples"] == [*PRESETS]
    assert found["Cluster"]["properties"]["gpu"]["examples"] == known_hardware()


def test_a_gpu_with_less_of_something_is_slower_by_it() -> None:
    """An H800 is an H100 with less NVLink; an H20 computes a sixth as fast and reads memory faster."""
    h100, h800, h20 = map(load_hardware, ("h100", "h800", "h20"))
    assert h800.nvlink_gb_s.value < h100.nvlink_gb_s.value / 2
    assert (h800.product_tflops.value, h800.memory_gib.value) == (h100.product_tflops.value, h100.memory_gib.value)
    assert h20.product_tflops.value < h100.product_tflops.value / 6
    assert h20.memory_gb_s.value > h100.memory_gb_s.value
