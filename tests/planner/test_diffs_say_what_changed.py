"""Law: `mimo diff` names every change of a plan, a renamed module as such, and what both plans will take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from planner import compile_spec, load_spec
from planner.cli import main
from planner.cost.predict import predict
from tests import EXAMPLES

if TYPE_CHECKING:
    import pytest

LLAVA, COLOCATED = EXAMPLES / "llava_8gpu.yaml", EXAMPLES / "llava_8gpu_colocated.yaml"


def diff(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> list[str]:
    assert main(["diff", *map(str, arguments)]) == code
    return capsys.readouterr().out.splitlines()


def written(folder: Path, *pairs: tuple[str, str], name: str = "b.yaml") -> Path:
    text = LLAVA.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path = folder / name
    path.write_text(text)
    return path


def test_a_renamed_module_is_no_other_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = diff(capsys, LLAVA, written(tmp_path, ("images", "vision")))
    assert lines == ["images: renamed vision", "touches 6 of 8 ranks: 0-1, 4-7"]
    lines = diff(capsys, LLAVA, written(tmp_path, ("images", "vision"), ("{tp: 2, dp: 2}", "{tp: 4, dp: 1}")))
    assert lines[:3] == ["images: renamed vision", "vision: tp 2 -> 4", "vision: dp 2 -> 1"]
    assert "bridge vision->language: 2 to 1 lanes -> 1 to 1 lanes" in lines


def test_of_two_renamed_modules_the_equal_one_is_found_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "model: {preset: clip-vit-l-14-336}, output: {tokens_per_sample: 576}"
    head = "batch: {global_size: 8, micro_size: 4, seq_length: 4096}\nmodules:\n"
    head += "  language: {model: {preset: vicuna-7b}}\n"
    for name, (one, other) in {"a": ("b", "c"), "b": ("y", "x")}.items():
        text = f"  {one}: {{parallel: {{dp: 1}}, special_token_id: 3, {model}}}\n"
        text += f"  {other}: {{parallel: {{dp: 1}}, special_token_id: 4, {model}}}\n"
        (tmp_path / f"{name}.yaml").write_text(head + (text if name == "a" else text.replace("id: 3", "id: 9")))
    lines = diff(capsys, tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert lines[:3] == ["b: renamed y", "y: special_token_id 3 -> 9", "c: renamed x"]


def test_another_module_is_not_renamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = written(tmp_path, ("images", "vision"), ("clip-vit-l-14-336", "whisper-base"), ("576", "1500"))
    lines = diff(capsys, LLAVA, other)
    assert lines[0].startswith("images: removed, was ")
    assert lines[1].startswith("vision: added, ")
    assert lines[2:4] == ["bridge images->language: removed", "bridge vision->language: added, 2 transfers"]


def test_what_is_predicted_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(LLAVA), str(COLOCATED), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for key, path in (("before", LLAVA), ("after", COLOCATED)):
        p = predict(compile_spec(load_spec(path)))
        assert found[key]["step_seconds"] == p.step_seconds
        assert found[key]["tokens_per_second"] == p.tokens_per_second
        assert found[key]["fullest_rank_bytes"] == p.worst.total
    assert "predicted: step time 7.78 s -> 4.52 s" in found["differences"]
    on_a100 = diff(capsys, LLAVA, COLOCATED, "--gpu", "a100")
    assert "predicted: step time 7.78 s -> 4.52 s" not in on_a100
    assert sum(line.startswith("predicted: step time ") for line in on_a100) == 1


def test_the_exit_code_tells_if_it_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diff(capsys, LLAVA, COLOCATED, "--exit-code", code=1)
    diff(capsys, LLAVA, COLOCATED)
    assert diff(capsys, LLAVA, LLAVA, "--exit-code") == ["no difference: the plans are equal"]
    assert diff(capsys, LLAVA, written(tmp_path, ("gpu: h100", "gpu: h200")), "--exit-code", code=1)


def test_a_plan_of_another_machine_is_compared_without_its_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    spec = written(tmp_path, ("gpu: h100", "gpu: ./their_gpu.yaml"))
    path.write_text(compile_spec(load_spec(spec)).to_json())
    lines = diff(capsys, path, LLAVA)
    assert not any(line.startswith("predicted") for line in lines)
