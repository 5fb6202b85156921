"""Law: the command prints what the golden texts say, word for word.

After a change that is wanted, run it with --update-golden and read the diff.
"""

from __future__ import annotations

import pytest

from planner.cli import main
from tests import GOLDEN, ROOT

CASES = {
    **{path.stem: ["plan", f"examples/{path.name}"] for path in sorted((ROOT / "examples").glob("*.yaml"))},
    "llava_8gpu_wide": ["plan", "examples/llava_8gpu.yaml"],
    "llava_8gpu_colour": ["plan", "examples/llava_8gpu_colocated.yaml", "--color", "always"],
    "llava_8gpu_rank0": ["plan", "examples/llava_8gpu.yaml", "--rank", "0"],
    "llava_8gpu_colocated_rank5": ["plan", "examples/llava_8gpu_colocated.yaml", "--rank", "5"],
    "llama70b_1024gpu_rank897": ["plan", "examples/llama70b_1024gpu.yaml", "--rank", "897"],
    "tiny_rank3_json": ["plan", "examples/tiny_4rank.yaml", "--rank", "3", "--format", "json"],
    "tiny_plan_json": ["plan", "examples/tiny_4rank.yaml", "--format", "json"],
    "tiny_views_jsonl": ["plan", "examples/tiny_4rank.yaml", "--format", "jsonl"],
    "predict_colocated": ["predict", "examples/llava_8gpu_colocated.yaml"],
    "predict_tiny": ["predict", "examples/tiny_4rank.yaml"],
    "mixed": ["plan", "tests/data/mixed.yaml"],
    "straddling": ["plan", "tests/data/straddling.yaml", "--verify"],
    "faulty": ["plan", "tests/data/faulty.yaml"],
    "diff_placement": ["diff", "examples/llava_8gpu.yaml", "examples/llava_8gpu_colocated.yaml"],
    "diff_modules": ["diff", "examples/vision_audio_8gpu.yaml", "examples/llava_8gpu.yaml"],
    "explain": ["explain", "P004"],
    "explain_all": ["explain"],
}


@pytest.mark.parametrize("name", CASES)
def test_output_equals_golden_text(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200" if name.endswith("wide") else "80")
    code = main(CASES[name])
    captured = capsys.readouterr()
    text = f"exit {code}\n{captured.out}{captured.err}"
    golden = GOLDEN / f"{name}.txt"
    if request.config.getoption("--update-golden"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_every_golden_text_is_used() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


def _is_laid_out(name: str) -> bool:
    """Messages of faults and sentences of a diff may be longer, because people copy them whole into issues."""
    return CASES[name][0] in ("plan", "predict") and name != "faulty" and not name.endswith(("json", "jsonl", "wide"))


@pytest.mark.parametrize("name", [name for name in CASES if _is_laid_out(name)])
def test_lines_fit_80_columns(name: str) -> None:
    lines = (GOLDEN / f"{name}.txt").read_text().replace("\x1b[0m", "").splitlines()
    plain = [line for line in lines if "\x1b" not in line and ": warning[" not in line and "fix:" not in line]
    assert [line for line in plain if len(line) > 80] == []
