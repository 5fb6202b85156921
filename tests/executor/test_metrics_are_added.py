"""Law: `--metrics` adds whole lines behind those of earlier runs, each with its run, and harms no other file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests import EXAMPLES
from tests.executor.jobs import ranks

TINY = EXAMPLES / "tiny_4rank.yaml"


def train(metrics: str, spec: Path = TINY) -> tuple[int, str, str]:
    (outcome,) = ranks.run(
        1, "jobs:command", "train", str(spec), "--steps", "2", "--reference", "--no-check", "--metrics", metrics
    )
    found: tuple[int, str, str] = outcome
    return found


def test_a_run_writes_behind_another(tmp_path: Path) -> None:
    """Of a line that the first run left unfinished, nothing is lost, and no line of the second is."""
    file = tmp_path / "metrics.jsonl"
    assert train(str(file))[0] == 0
    with file.open("a") as stream:
        stream.write('{"run": "0123", "step": 2, "lo')
    assert train(str(file))[0] == 0
    *first, broken, third, fourth = file.read_text().splitlines()
    assert broken == '{"run": "0123", "step": 2, "lo'
    lines = [json.loads(line) for line in (*first, third, fourth)]
    assert [line["step"] for line in lines] == [0, 1, 0, 1]
    runs = [line["run"] for line in lines]
    assert runs[0] == runs[1] != runs[2] == runs[3]


def test_a_dash_prints_them_alone() -> None:
    code, out, err = train("-")
    assert code == 0
    assert [json.loads(line)["step"] for line in out.splitlines()] == [0, 1]
    assert "step    1  loss " in err


@pytest.mark.parametrize("text", ["alpha\nbeta\n", '{"mimo_plan": 1}\n', '{"name": "no line end"}', 9000 * "["])
def test_another_file_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text(text)
    code, out, err = train(str(file))
    assert (code, out) == (1, "")
    assert f"--metrics {file} holds " in err
    assert file.read_text() == text


@pytest.mark.parametrize("way", ["same", "link"])
def test_the_spec_is_left_alone(tmp_path: Path, way: str) -> None:
    spec = Path(shutil.copy(TINY, tmp_path / "spec.yaml"))
    (tmp_path / "link").symlink_to(spec)
    given = spec if way == "same" else tmp_path / "link"
    code, out, err = train(str(given), spec)
    assert (code, out) == (2, "")
    assert f"--metrics {given} would overwrite {spec}, which is read" in err
    assert spec.read_bytes() == TINY.read_bytes()


def test_a_full_disk_is_one_line() -> None:
    code, _, err = train("/dev/full")
    assert code == 1
    assert err.strip().endswith("--metrics /dev/full cannot be written: No space left on device")
    assert "Traceback" not in err
