"""`mimo predict --csv` on any file: what a spreadsheet does to one is read, and a row at fault says where and why."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import pytest

from planner.cli import main
from tests import DATA

FOLDER = DATA / "runs"
SINGLE = (FOLDER / "a100_single_node_given.csv").read_text().splitlines()[:4]
HEADER = SINGLE[0]
GOOD = "8,32,2,1024,16,16,1024,1,8,1,5"
NAMES = ("a100_recompute", "a100_single_node", "a100_multi_node", "b200_llama")

Outcome = tuple[int, list[dict[str, str]], str]


def predict(text: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Exit code, rows of the output, messages."""
    path = tmp_path / "runs.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    code = main(["predict", "--csv", str(path)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, list(csv.DictReader(StringIO(out))), err


def numbers(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(row["predicted_ms"], row["predicted_GiB"]) for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_adds_two_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = FOLDER / f"{name}_given.csv"
    assert main(["predict", "--csv", str(path)]) == 0
    written = list(csv.DictReader(StringIO(capsys.readouterr().out)))
    given = list(csv.DictReader(StringIO(path.read_text())))
    assert [{key: row[key] for key in given[0]} for row in written] == given
    for row in written:
        assert float(row["predicted_GiB"]) > 0.1
        measured = next((float(row[key]) for key in ("ms", "iteration time (ms)") if key in row), None)
        milliseconds = measured or 1000 * float(row["sp_selective_s"])
        assert 0.3 < float(row["predicted_ms"]) / milliseconds < 3


def _quoted(text: str) -> str:
    return "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines())


def _reversed(text: str) -> str:
    return "\n".join(",".join(line.split(",")[::-1]) for line in text.splitlines())


def _last(text: str, *ends: str) -> str:
    """With other ends in the place of the last column."""
    return "\n".join(line.rpartition(",")[0] + end for line, end in zip(text.splitlines(), ends, strict=True))


HABITS = {
    "byte order mark": lambda text: "\ufeff" + text,
    "UTF-16": lambda text: text.encode("utf-16"),
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "blanks": lambda text: text.replace(",", " , "),
    "blank lines": lambda text: text.replace("\n", "\n\n") + "\n \n,,,,,,,,,,\n",
    "trailing commas": lambda text: text.replace("\n", ",,\n") + ",,",
    "no last line break": lambda text: text.rstrip("\n"),
    "quotes": _quoted,
    "columns in another order": _reversed,
    "another column": lambda text: "\n".join(f"x{i},{line}" for i, line in enumerate(text.splitlines())),
    "no measured time": lambda text: _last(text, *[""] * 4),
    "a measured time that is none": lambda text: _last(text, ",iteration time (ms)", ",OOM", ",", ",-1"),
    "1.0": lambda text: text.replace(",1024,", ",1024.0,"),
    "1e3": lambda text: text.replace(",1024,", ",1.024e3,"),
    "its own output": lambda text: _last(text, ",predicted_ms,predicted_GiB", ",1,2", ",3,4", ",5,6"),
}


@pytest.mark.parametrize("habit", HABITS)
def test_spellings_of_a_file_are_one(habit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = "\n".join(SINGLE)
    code, wanted, _ = predict(plain, tmp_path, capsys)
    assert code == 0
    assert len(wanted) == 3
    code, rows, err = predict(HABITS[habit](plain), tmp_path, capsys)
    assert code == 0, err
    assert numbers(rows) == numbers(wanted)


def test_layers_that_do_not_divide_and_small_worlds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ("2,4,1,1024,16,17,1024,1,1,2,5", "1,4,1,1024,16,1,1024,1,1,1,5", "12,12,1,1536,16,5,1024,4,1,3,5")
    code, found, err = predict("\n".join([HEADER, *rows]), tmp_path, capsys)
    assert code == 0, err
    assert all(float(row["predicted_ms"]) > 0 for row in found)


def test_a_file_without_rows_is_its_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(HEADER + "\n", tmp_path, capsys)[:2] == (0, [])


ROWS = {
    "a word": ("8,32,2,big,16,16,1024,1,8,1,5", "error[S103] hidden size: ", "a whole number, got 'big'"),
    "a fraction": ("8,32,2.5,1024,16,16,1024,1,8,1,5", "error[S103] micro batch: ", "a whole number, got '2.5'"),
    "nothing": ("8,,2,1024,16,16,1024,1,8,1,5", "error[S103] global batch: ", "a whole number, got nothing"),
    "a short row": ("8,32", "error[S103] hidden size: ", "got nothing"),
    "a long row": (GOOD + ",6", "error[S103] row: ", "a column for every cell, got 1 more: 6"),
    "not a number": ("8,32,2,nan,16,16,1024,1,8,1,5", "error[S103] hidden size: ", "got 'nan'"),
    "zero": ("8,32,2,1024,16,16,1024,0,8,1,5", "error[S104] tensor parallelism: ", "1 <= tensor parallelism"),
    "infinite": ("8,32,2,inf,16,16,1024,1,8,1,5", "error[S10", "got"),
    "too large": ("8,32,2,1e30,16,16,1024,1,8,1,5", "error[S104] hidden size: ", "<= 16777216, got 1e30"),
    "batch": ("8,30,4,1024,16,16,1024,1,8,1,5", "error[S107] global batch: ", "a whole number; got 30 / 32"),
    "GPUs": ("4,32,2,1024,16,16,1024,1,8,1,5", "error[S107] # GPUs: ", "= 1 * 8 * 1, got 4"),
    "heads": ("3,32,2,1024,16,16,1024,3,1,1,5", "error[M003] modules.language.parallel.tp: ", "% tp = 16 % 3"),
    "layers": (
        "8,32,2,1024,16,4,1024,1,1,8,5",
        "error[S107] # layers: ",
        "8 pipeline stages has a layer or more",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_at_fault_says_so_and_loses_no_other(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, code_and_column, rule = ROWS[name]
    alone = predict(f"{HEADER}\n{GOOD}\n{GOOD}\n", tmp_path, capsys)[1]
    code, rows, err = predict(f"{HEADER}\n{GOOD}\n{bad}\n{GOOD}\n", tmp_path, capsys)
    assert code == 1
    assert f"{tmp_path / 'runs.csv'}:3:1: {code_and_column}" in err
    assert rule in err
    assert "    fix: " in err
    assert numbers(rows) == [numbers(alone)[0], ("", ""), numbers(alone)[1]]


HEADERS = {
    "another header": ("a,b\n1,2\n", "the header has the columns of a known set of runs, got a, b"),
    "an empty file": ("", "got nothing"),
    "a column is missing": (HEADER.replace("hidden size", "width"), "one node of A100, without hidden size"),
    "semicolons": (HEADER.replace(",", ";"), "cells are separated by commas, got semicolons"),
    "tabs": (HEADER.replace(",", "\t"), "got tabs"),
    "a column twice": (HEADER + ",# layers", "names each column once, got '# layers' more than once"),
    "a quote left open": (f'{HEADER}\n8,"32', "the text is CSV: "),
    "bytes": (b"\x00\xff\xfe\x01", "error[S003]"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_files_of_no_set_say_what_is_missing(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, wanted = HEADERS[name]
    code, rows, err = predict(text, tmp_path, capsys)
    assert (code, rows) == (1, [])
    assert wanted in err
    assert f"{tmp_path / 'runs.csv'}:" in err


def test_errors_are_said_where_runs_were_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (FOLDER / "b200_llama_given.csv").read_text()
    _, rows, err = predict(text, tmp_path, capsys)
    errors = [abs(float(row["predicted_ms"]) / float(row["ms"]) - 1) for row in rows]
    assert f"time of 16 measured runs: mean error {sum(errors) / 16:.1%}, largest {max(errors):.1%}, Spearman " in err
    assert "memory of 16 measured runs: mean error" in err


def test_a_measurement_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its row is predicted all the same; an empty cell needs no word, and two runs have no order to speak of."""
    header, first, second, third = SINGLE
    rows = [header, first, second.rpartition(",")[0] + ",OOM", third.rpartition(",")[0] + ",", first]
    code, found, err = predict("\n".join(rows), tmp_path, capsys)
    assert (code, len(found)) == (0, 4)
    assert all(row["predicted_ms"] for row in found)
    time, note = err.splitlines()
    assert time.startswith("time of 2 measured runs: mean error ")
    assert "Spearman" not in time
    assert note.startswith("1 cell not counted as measured, the first in line 3: iteration time (ms) is a number above")
    assert note.endswith("got 'OOM'")


def test_predictions_are_not_rounded_to_what_one_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, (row,), _ = predict(f"{HEADER}\n{GOOD}\n", tmp_path, capsys)
    assert all(len(row[key].partition(".")[2]) == 6 for key in ("predicted_ms", "predicted_GiB"))
