"""Law: a file of runs names no file outside its folder, and what is written of it is no formula."""

from __future__ import annotations

import csv
import os
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cli import main
from planner.cost.measured import csv_file
from planner.cost.measured.csv_file import MAX_COLUMNS, read_runs
from planner.cost.measured.text_cells import read, written
from tests import DATA

FOLDER = DATA / "runs"
SPEC, GPU = "a100_gpt.yaml", "a100"
HARDWARE = Path(csv_file.__file__).parents[2] / "hardware" / "a100.yaml"


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder with a spec and a hardware file, beside a folder with the same."""
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / SPEC).write_text((FOLDER / SPEC).read_text())
        (tmp_path / name / "mine.yaml").write_text(HARDWARE.read_text())
        (tmp_path / name / "soft.yaml").write_text("rotary: false\n")
        (tmp_path / name / "metrics.jsonl").write_text('{"seconds": 1.0}\n')
    return tmp_path / "inside"


def predict(
    folder: Path, rows: str, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, list[dict[str, str]], str]:
    (folder / "runs.csv").write_text(rows)
    code = main(["predict", "--csv", str(folder / "runs.csv"), *options])
    found = capsys.readouterr()
    return code, list(csv.DictReader(StringIO(found.out))), found.err


LEADING_OUT = ["../outside/{}", "{outside}/{}", "link/{}", "linked_{}", "./../inside/../outside/{}"]


@pytest.mark.parametrize("way", LEADING_OUT)
@pytest.mark.parametrize("column", ["spec", "software", "metrics", "cluster.gpu"])
def test_cells_lead_out_of_the_folder_only_if_allowed(
    column: str, way: str, inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = inside.parent / "outside"
    file = {"spec": SPEC, "software": "soft.yaml", "metrics": "metrics.jsonl", "cluster.gpu": "mine.yaml"}[column]
    (inside / "link").symlink_to(outside)
    (inside / f"linked_{file}").symlink_to(outside / file)
    monkeypatch.chdir(inside)  # hardware files are named from the working folder, as everywhere
    cells = {"spec": SPEC, "notes": "x", column: way.format(file, outside=outside)}
    rows = f"{','.join(cells)}\n{','.join(cells.values())}\n"
    code, found, err = predict(inside, rows, capsys, *([] if column == "cluster.gpu" else ["--gpu", GPU]))
    assert code == (0 if column == "metrics" else 1)  # a measurement that cannot be read hinders no prediction
    assert "files that cells name are below the folder of the file of runs" in err
    assert "leads out of it" in err
    assert column == "metrics" or ("--root DIR" in err and found[0]["predicted_ms"] == "")
    code, found, err = predict(
        inside, rows, capsys, "--root", str(inside.parent), *([] if column == "cluster.gpu" else ["--gpu", GPU])
    )
    assert code == 0, err
    assert float(found[0]["predicted_ms"]) > 0


def test_calibrate_takes_a_root(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (inside / "runs.csv").write_text(f"spec,ms\n../outside/{SPEC},900\n")
    assert main(["calibrate", str(inside / "runs.csv"), "--gpu", GPU]) == 1
    assert "leads out of it" in capsys.readouterr().err
    assert main(["calibrate", str(inside / "runs.csv"), "--gpu", GPU, "--root", str(inside.parent)]) == 0
    assert main(["calibrate", str(inside / "runs.csv"), "--root", str(inside / "runs.csv")]) == 2
    assert "is no directory" in capsys.readouterr().err


def test_a_cell_reads_no_standard_input(
    inside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inside)
    Path("runs.csv").write_text("spec\n-\n")
    assert main(["predict", "--csv", "runs.csv"]) == 1
    assert os.strerror(2) in capsys.readouterr().err


# ---- formulas

FORMULAS = [
    "=1+1", "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", '=HYPERLINK("http://x","y")', "-inf", "+nan", "\t=1",
    " =1", "\r=1", "'=1", "''@x", "\uff1d1", "-", "=",
]  # fmt: skip
PLAIN = ["", "x", "-1", "-1.5e-3", "+3", ".5", "-.5", "1e5", "'tis", "a=b", "OOM", "e-mail@x", " 4 "]


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_a_formula_is_written_as_text(text: str) -> None:
    assert not written(text).lstrip("\t\r ").startswith(("=", "+", "-", "@", "\uff1d"))


@pytest.mark.parametrize("text", PLAIN)
def test_numbers_and_words_are_written_as_they_are(text: str) -> None:
    assert written(text) == text == read(text)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])) | st.sampled_from([*FORMULAS, *PLAIN]))
def test_what_was_written_is_read_as_it_was(text: str) -> None:
    if text.isprintable():
        assert read(written(text)) == text or text.startswith("'")
    assert written(read(written(text))) == written(text)


def test_a_file_that_predict_wrote_is_read_again(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = ["spec", "=notes", "more notes", "ms"]
    rows = [[SPEC, formula, "-1.5", "900"] for formula in FORMULAS]
    out = StringIO()
    csv.writer(out).writerows([header, *rows])
    code = predict(inside, out.getvalue(), capsys, "--gpu", GPU)[0]
    assert code == 0
    (inside / "runs.csv").write_text(out.getvalue())
    main(["predict", "--csv", str(inside / "runs.csv"), "--gpu", GPU])
    first = capsys.readouterr().out
    assert "'=notes" in first.splitlines()[0]
    assert ",-1.5,900," in first
    (inside / "again.csv").write_text(first)
    assert main(["predict", "--csv", str(inside / "again.csv"), "--gpu", GPU]) == 0
    assert capsys.readouterr().out == first


# ---- work


def test_a_file_of_very_many_columns_is_refused(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = ",".join(["spec", *(f"note {i}" for i in range(MAX_COLUMNS))])
    code, _, err = predict(inside, header + "\nx" * 100_000, capsys)
    assert code == 1
    assert f"at most {MAX_COLUMNS} columns, got {MAX_COLUMNS + 1}" in err


def test_short_rows_hold_their_own_cells_only() -> None:
    """With a cell for every column, a header of 2 kB and 300,000 rows of a byte would be 150 million cells."""
    runs = read_runs(",".join(["spec", *(f"n{i}" for i in range(400))]) + "\nx" * 1000, "runs.csv")
    assert sum(len(row.cells) for row in runs.rows) == 1000


def test_of_very_many_faults_the_first_are_shown(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, err = predict(inside, "spec\n" + "".join(f"none{i}.yaml\n" for i in range(1000)), capsys)
    assert (code, len(rows)) == (1, 1000)
    assert "1,000 faults (200 shown)" in err


def test_places_of_faults_are_found_without_reading_the_file_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    starts = csv_file._line_starts

    def counted(text: str) -> list[int]:
        nonlocal calls
        calls += 1
        return starts(text)

    monkeypatch.setattr(csv_file, "_line_starts", counted)
    runs = read_runs("spec,ms\n" + "x.yaml,1\n" * 2000, "runs.csv")
    marks = [runs.mark(row.line, "ms") for row in runs.rows]
    assert [mark.line for mark in marks] == list(range(2, 2002))
    assert {mark.column for mark in marks} == {8}
    assert calls == 1
