"""Law: whoever has no spec is given one that plans, and whoever writes one is helped by editor and shell."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from planner import compile_spec, load_spec, parse_spec
from planner.cli import main
from planner.cost.predict import predict
from planner.cost.simulation.words import duration
from planner.cost.timing.hardware import known_hardware
from planner.spec.json_schema import spec_schema
from tests import EXAMPLES
from tests.planner.test_faults_are_shown_to_people_and_programs import on_terminal

CLUSTERS = [
    (),
    ("--nodes", "4"),
    ("--gpu", "a100", "--nodes", "1", "--gpus-per-node", "4", "--images", "none"),
    ("--audio", "whisper-base", "--train-encoders", "--seq-length", "3072", "--global-size", "128"),
    ("--gpu", "h20", "--nodes", "3", "--global-size", "240"),
]


@pytest.mark.parametrize("flags", CLUSTERS, ids=" ".join)
def test_what_is_begun_plans_and_fits(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spec.yaml"
    assert main(["init", *flags, "-o", str(path)]) == 0
    told = capsys.readouterr().out
    assert main(["plan", str(path), "--strict"]) == 0
    spec = load_spec(path)
    prediction = predict(compile_spec(spec))
    assert prediction.fits
    assert f"Predicted: {duration(prediction.step_seconds)} a step, " in path.read_text()
    assert told.startswith(f"wrote {path}: {duration(prediction.step_seconds)} a step on ")
    assert told.endswith(f"next: mimo plan {path}\n")
    assert all(len(line) <= 120 for line in path.read_text().splitlines())
    given = dict(zip(flags[::2], flags[1::2], strict=False)) if "--train-encoders" not in flags else {}
    assert spec.cluster
    assert spec.cluster.gpu == given.get("--gpu", "h100")
    assert spec.batch.global_size == int(given.get("--global-size", 128 if "--train-encoders" in flags else 256))
    assert all(
        module.freeze.encoder != ("--train-encoders" in flags)
        for name, module in spec.modules.items()
        if name != "language"
    )


def test_nothing_is_written_over_and_nothing_wrong_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("mine")
    for flags, said in (
        (["-o", str(path)], "is there already: name another file, or - to print the spec"),
        (["-o", "-", "--language", "vicuna"], 'vicuna is not one of vicuna-7b; did you mean "vicuna-7b"? begin'),
        (["-o", "-", "--gpu", "h10"], "--gpu h10 is not one of a100, "),
        (["-o", "-", "--nodes", "1", "--gpus-per-node", "1", "--gpu", "a100"], "none of the usual layouts fits"),
    ):
        assert main(["init", *flags]) == 2
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.out == ""
    assert path.read_text() == "mine"
    assert main(["init", "-o", "-", "--seq-length", "8192"]) == 1
    assert "seq_length <= max_positions of language" in capsys.readouterr().err
    assert main(["init", "-o", "-", "--format", "json"]) == 2
    assert "give -o FILE for the spec" in capsys.readouterr().err
    assert main(["init", "-o", "-"]) == 0
    assert parse_spec(capsys.readouterr().out)


def test_a_terminal_is_asked(tmp_path: Path) -> None:
    """A wrong answer is asked for again, and an empty one is the default."""
    typed = b"vicuna\n\nnone\nH200\n2\n\n128\n\n"
    text = "\n".join(on_terminal(200, "init", "--images", "none", folder=tmp_path, typed=typed))
    assert "language model (vicuna-7b) [vicuna-7b]: " in text
    assert "vicuna is not one of vicuna-7b" in text
    assert "image encoder" not in text
    spec = load_spec(tmp_path / "spec.yaml")
    assert spec.cluster
    assert (spec.cluster.gpu, spec.cluster.nodes, spec.cluster.gpus_per_node) == ("h200", 2, 8)
    assert (spec.batch.global_size, spec.batch.seq_length, list(spec.modules)) == (128, 4096, ["language"])


def test_editors_find_the_schema_of_the_examples() -> None:
    """`mimo schema > examples/spec.schema.json` makes it anew."""
    assert json.loads((EXAMPLES / "spec.schema.json").read_text()) == spec_schema(known_hardware())
    for path in EXAMPLES.glob("*.yaml"):
        assert path.read_text().startswith("# yaml-language-server: $schema=spec.schema.json\n"), path


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["pl"], ["plan"]),
        (["plan", "--gpu", "h1"], ["h100"]),
        (["report", "--o"], ["--out", "--open"]),
        (["plan", "exam"], ["examples"]),
        (["init", "--lan"], ["--language"]),
    ],
    ids=" ".join,
)
def test_bash_completes(
    words: list[str], offered: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "mimo.bash"
    script.write_text(capsys.readouterr().out)
    (tmp_path / "examples").mkdir()
    typed = " ".join(f"'{word}'" for word in ["mimo", *words])
    state = f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}"
    shell = f'source {script}; {state}; _shtab_mimo; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S607
    assert sorted(done.stdout.split()) == sorted(offered), done.stderr


def test_completion_is_offered_for_other_shells(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("zsh", "tcsh"):
        assert main(["completion", shell]) == 0
        assert "calibrate" in capsys.readouterr().out
