"""Law: a user's hardware file reports every fault at once, with its place, and blames none of them on the spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.cli import main
from planner.cost.timing.hardware import hardware_text, known_hardware, load_hardware, parse_hardware
from tests import ROOT

SPEC = str(ROOT / "examples" / "llava_8gpu.yaml")
GOOD = hardware_text(load_hardware("h100"))
LINES = GOOD.splitlines()

FAULTY = {
    "empty": ("", "mine.yaml:1:1: error[S003] hardware: ", "the document is empty"),
    "a list": ("[1, 2]", "mine.yaml:1:1: error[S103] hardware: ", "no key such as num_sms"),
    "not YAML": ("name: [", "mine.yaml:1:8: error[S003] hardware: ", "not well formed"),
    "a key is missing": ("\n".join(LINES[:-1]), "mine.yaml:1:1: error[S102] hardware: ", "scale_out is required"),
    "a key too many": (GOOD + "speed: 1\n", "error[S101] speed: ", "'speed' is not a key of the hardware"),
    "a misspelt key": (GOOD.replace("hop_us", "hops_us"), "error[S101] hops_us: ", 'did you mean "hop_us"?'),
    "a negative number": (GOOD.replace("value: 989", "value: -989"), "error[S104] peak_tflops.value: ", "got -989"),
    "no number": (GOOD.replace("value: 989", "value: fast"), "error[S103] peak_tflops.value: ", "expected a number"),
    "not finite": (GOOD.replace("value: 989", "value: .inf"), "error[S104] peak_tflops.value: ", "got inf"),
    "a bare number": ("\n".join([*LINES[:-1], "scale_out: 1.1"]), "error[S103] scale_out: ", "expected a mapping"),
    "no source": ("\n".join([*LINES[:-1], "scale_out: {value: 1.1}"]), "scale_out: source is required", "fix: add"),
    "a fraction": (GOOD.replace(LINES[1], "num_sms: 1.5"), "mine.yaml:2:1: error[S103] num_sms: ", "an integer"),
    "too long": ("#" * 300_000, "mine.yaml:1:1: error[S002] hardware: ", "at most"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faults_have_a_place_and_a_remedy(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, *wanted = FAULTY[name]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert main(["predict", SPEC, "--gpu", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert all(part in err for part in wanted), err
    assert "; fix: " in err
    assert " spec: " not in err


@pytest.mark.parametrize(
    ("gpu", "wanted"),
    [
        ("none.yaml", "none.yaml:1:1: error[S001] hardware: none.yaml cannot be read: No such file or directory"),
        ("h1000", 'did you mean "h100"?'),
        ("mine", "the GPU is one of a100, b200, h100, h20, h200, h800, or a file; got 'mine'"),
    ],
)
def test_a_gpu_that_is_not_known(gpu: str, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", SPEC, "--gpu", gpu]) == 1
    assert wanted in capsys.readouterr().err


def test_the_unchanged_file_is_the_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    assert main(["predict", SPEC, "--gpu", str(tmp_path / "mine.yaml")]) == 0
    own = capsys.readouterr().out
    assert main(["predict", SPEC, "--gpu", "H100"]) == 0
    assert capsys.readouterr().out == own


@pytest.mark.parametrize("name", known_hardware())
def test_both_readers_of_yaml_agree_on_the_packages_own_files(name: str) -> None:
    text = (ROOT / f"planner/hardware/{name}.yaml").read_text()
    assert parse_hardware(text, is_ours=True) == parse_hardware(text) == load_hardware(name)
