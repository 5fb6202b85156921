"""Law: predictions stand beside measured numbers, with the GPU that is assumed, if the two can be compared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from executor.commands import predicted
from executor.commands.predicted import Predicted, gpu_of, is_same_gpu, predicted_of, summary
from planner import Cluster, Plan, compile_spec, load_spec
from planner.cost.predict import predict
from planner.cost.timing.hardware import hardware_text, load_hardware
from planner.cost.work.settings import EXECUTOR
from tests import EXAMPLES

H100 = "NVIDIA H100 80GB HBM3"


def llava(gpu: str) -> Plan:
    spec = load_spec(EXAMPLES / "llava_8gpu.yaml")
    return compile_spec(attrs.evolve(spec, cluster=Cluster(nodes=1, gpus_per_node=8, gpu=gpu)))


def as_planned(plan: Plan) -> SimpleNamespace:
    """The settings of a run that the command line does not change."""
    return SimpleNamespace(**attrs.asdict(plan.training))


def steps(*seconds: float) -> list[SimpleNamespace]:
    """What these tests read of a training step."""
    return [SimpleNamespace(seconds=each, memory_bytes=2**30 + i) for i, each in enumerate(seconds)]


@pytest.mark.parametrize(
    ("device", "gpu"),
    [
        (H100, "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA H800", "h800"),
        ("NVIDIA GH200 480GB", "h100"),  # the default, since none of the known ones has that name
        ("cpu", "h100"),
    ],
)
def test_the_gpu_is_the_device_by_its_name(device: str, gpu: str) -> None:
    assert gpu_of(device) == gpu
    assert is_same_gpu(gpu, device) == (gpu.upper() in device.replace("-", " ").split())


def test_a_name_within_another_is_another_gpu() -> None:
    assert not is_same_gpu("h20", "NVIDIA H200")
    assert is_same_gpu("H20", "NVIDIA H20-3e")


def test_a_file_of_ones_own_is_compared_by_the_name_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path says nothing about the GPU, and its name may say more than the GPU."""
    own = attrs.evolve(load_hardware("h100"), name="h100 in rack 7")
    own = attrs.evolve(own, product_tflops=attrs.evolve(own.product_tflops, value=400.0))
    file = tmp_path / "mine.yaml"
    file.write_text(hardware_text(own))
    monkeypatch.setattr(predicted, "software", lambda: EXECUTOR)
    plan = llava(str(file))
    found = predicted_of(plan, as_planned(plan), str(file))
    assert found.gpu == "h100 in rack 7"
    assert found.seconds == predict(plan, own, EXECUTOR).step_seconds
    assert found.seconds != predict(plan, load_hardware("h100"), EXECUTOR).step_seconds
    lines = summary(found, steps(9.0, 1.0, 3.0, 2.0), H100)
    assert lines[0].endswith("of rank 0 on h100 in rack 7")
    assert lines[1] == f"measured   2000.0 ms a step, 1.00 GiB of rank 0 on {H100}"
    assert summary(found, steps(1.0), "NVIDIA H200")[1].endswith("NVIDIA H200, not comparable")


def test_without_a_prediction_the_reason_stands_there() -> None:
    found = predicted_of(llava("h100"), as_planned(llava("h100")), "abacus")
    assert (found.seconds, found.num_bytes, found.gpu) == (None, None, "")
    assert "'abacus'" in summary(found, steps(1.0), H100)[0]
    assert summary(Predicted(reason="x"), [], H100) == []
