"""Law: `mimo predict --csv` reads a file whatever a spreadsheet did to it, and a faulty row says where and why.

Columns that are paths into the spec override it row by row.
"""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from planner import PlanError, compile_spec
from planner.base.errors import Fault
from planner.cli import main
from planner.cost.measured import row_work
from planner.cost.measured.accuracy import samples_of
from planner.cost.measured.csv_file import read_runs
from planner.cost.measured.predict import predict_runs
from planner.cost.timing.hardware import load_hardware
from planner.spec.loader import parse_spec
from tests import DATA

FOLDER = DATA / "runs"
SINGLE = (FOLDER / "a100_single_node_given.csv").read_text().splitlines()[:4]
HEADER = SINGLE[0]
COLUMNS = HEADER.split(",")
GOOD = "a100_gpt.yaml,megatron_2021.yaml,16,1024,16,1024,1,1,8,32,16,1024,5"
NAMES = ("a100_recompute", "a100_single_node", "a100_multi_node", "b200_llama")

Outcome = tuple[int, list[dict[str, str]], str]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """A folder with the base specs and the software of the published runs."""
    for file in FOLDER.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    return tmp_path


def with_cells(**changes: str) -> str:
    """The good row with other cells; a column is named by the end of its path."""
    cells = dict(zip(COLUMNS, GOOD.split(","), strict=True))
    for name, text in changes.items():
        cells[column_of(name)] = text
    return ",".join(cells.values())


def column_of(name: str) -> str:
    (found,) = (column for column in COLUMNS if column.split(".")[-1] == name)
    return found


def predict(text: str | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Outcome:
    """The exit code, the rows printed, and the messages."""
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
        assert 0.3 < float(row["predicted_ms"]) / float(row["ms"]) < 3


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_its_spec_with_its_values_written_into_it(name: str) -> None:
    path = FOLDER / f"{name}_given.csv"
    runs = read_runs(path.read_text(), str(path))
    for row, sample in zip(runs.rows, samples_of(runs), strict=True):
        data = yaml.safe_load((FOLDER / row.cells["spec"]).read_text())
        for column in runs.columns.of_spec:
            *outer, last = column.path
            section = data
            for key in outer:
                section = section.setdefault(key, {})
            if row.cells[column.name]:
                section[last] = yaml.safe_load(row.cells[column.name])
        assert sample.work.plan.digest == compile_spec(parse_spec(yaml.safe_dump(data))).digest


def _quoted(text: str) -> str:
    return "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines())


def _reversed(text: str) -> str:
    return "\n".join(",".join(line.split(",")[::-1]) for line in text.splitlines())


def _last(text: str, *ends: str) -> str:
    """The lines with `ends` in place of their last column."""
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
    "a measured time that is none": lambda text: _last(text, ",ms", ",OOM", ",", ",-1"),
    "1.0": lambda text: text.replace(",1024,", ",1024.0,"),
    "1e3": lambda text: text.replace(",1024,", ",1.024e3,"),
    "its own output": lambda text: _last(text, ",predicted_ms,predicted_GiB", ",1,2", ",3,4", ",5,6"),
    "values that the spec has": lambda text: text.replace("2,2,16,8,1024,", ",,,,,"),
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


def test_uneven_stages_and_small_worlds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = f"{HEADER},modules.language.stages"
    rows = (
        with_cells(num_layers="17", pp="2", dp="1", global_size="4", micro_size="1") + ',"[9, 8]"',
        with_cells(num_layers="1", dp="1", global_size="4", micro_size="1") + ",",
        with_cells(hidden_size="1536", num_layers="5", tp="4", pp="3", dp="1", micro_size="4") + ',"[2, 2, 1.0]"',
    )
    code, found, err = predict("\n".join([header, *rows]), tmp_path, capsys)
    assert code == 0, err
    assert all(float(row["predicted_ms"]) > 0 for row in found)


def test_a_file_without_rows_is_its_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(HEADER + "\n", tmp_path, capsys)[:2] == (0, [])


def test_empty_cells_leave_what_the_spec_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cell that is not there is empty too."""
    rows = ["a100_gpt.yaml" + "," * (len(COLUMNS) - 1), "a100_gpt.yaml"]
    _, wanted, _ = predict("spec\na100_gpt.yaml\n", tmp_path, capsys)
    code, found, _ = predict("\n".join([HEADER, *rows]), tmp_path, capsys)
    assert code == 0
    assert numbers(found) == 2 * numbers(wanted)


def test_columns_reach_every_part_of_a_spec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sections that the spec leaves out, whole sections, words, lists, and settings of the software."""
    spec = {
        "schema": 1,
        "batch": {"global_size": 8, "micro_size": 8, "seq_length": 512},
        "modules": {
            "language": {"parallel": {"tp": 2}, "model": {"preset": "vicuna-7b"}},
            "images": {"parallel": {"tp": 2}, "model": {"preset": "clip-vit-l-14-336"}},
        },
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(spec))
    values = {
        "cluster.gpu": "b200",
        "training.dtype": "fp16",
        "placement": "colocated",
        "topology.images": '"[language]"',
        "modules.images.freeze": "true",
        "modules.language.parallel": '"{dp: 2, tp: 1}"',
        "software.flash_attention": "FALSE",
    }
    rows = [["base.yaml", *[""] * len(values)], ["base.yaml", *values.values()]]
    rows += [["base.yaml", *("" if i != j else text for j, text in enumerate(values.values()))] for i in range(3)]
    text = "\n".join(",".join(cells) for cells in [["spec", *values], *rows])
    path = tmp_path / "own.csv"
    path.write_text(text)
    runs = read_runs(text.replace("spec,", "ms,spec,").replace("base.yaml", "1,base.yaml"), str(path))
    plain, every, gpu, dtype, _ = (sample.work for sample in samples_of(runs))
    plan = every.plan
    modules = {module.name: module for module in plan.modules}
    assert (plan.gpu, plan.training.dtype, plan.world_size) == ("b200", "fp16", 2)
    assert not every.settings.flash_attention
    assert modules["images"].freeze.all
    assert modules["language"].grid.num_lanes == 2
    assert (plain.plan.gpu, plain.plan.world_size, plain.settings.flash_attention) == (None, 4, True)
    assert (gpu.plan.gpu, gpu.plan.training.dtype, dtype.plan.training.dtype) == ("b200", "bf16", "fp16")


ROWS = {
    "a word": ("hidden_size", "big", "error[S103] modules.language.model.hidden_size: ", "an integer, got text, 'big'"),
    "a fraction": ("micro_size", "2.5", "error[S103] batch.micro_size: ", "an integer, got a float, 2.5"),
    "no spec": ("spec", "", "error[S102] spec: ", "every row names its spec file, got nothing"),
    "not a number": ("micro_size", "nan", "error[S103] batch.micro_size: ", "got text, 'nan'"),
    "zero": ("tp", "0", "error[S104] modules.language.parallel.tp: ", "1 <= tp"),
    "infinite": ("global_size", "inf", "error[S103] batch.global_size: ", "got text, 'inf'"),
    "too large": ("hidden_size", "1e30", "error[S104] modules.language.model.hidden_size: ", "<= 16777216, got 1000"),
    "a leading zero": ("tp", "010", "error[S103] modules.language.parallel.tp: ", "without leading zeros"),
    "null": ("seq_length", "null", "error[S103] batch.seq_length: ", "expected an integer, got nothing"),
    "no YAML": ("dp", "[1", "error[S003] modules.language.parallel.dp: ", "the text is not valid YAML: "),
    "batch": ("global_size", "30", "error[B001] batch.global_size: ", "30 / 16 = 1.875, must be whole"),
    "heads": ("tp", "3", "error[M003] modules.language.parallel.tp: ", "% tp = 16 % 3"),
    "layers": ("pp", "32", "error[M004] modules.language.parallel.pp: ", "num_layers % pp = 16 % 32"),
    "no such spec": ("spec", "none.yaml", "error[S001] spec: ", "none.yaml cannot be read"),
    "no such software": ("software", "none.yaml", "error[S001] software: ", "none.yaml cannot be read"),
    "a plan": ("spec", "plan.json", "error[S107] spec: ", "plan.json is a compiled plan"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_at_fault_names_its_cell_and_loses_no_other(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    column, text, code_and_path, rule = ROWS[name]
    bad = with_cells(**{column: text})
    (tmp_path / "plan.json").write_text(compile_spec(parse_spec((FOLDER / "a100_gpt.yaml").read_text())).to_json())
    alone = predict(f"{HEADER}\n{GOOD}\n{GOOD}\n", tmp_path, capsys)[1]
    code, rows, err = predict(f"{HEADER}\n{GOOD}\n{bad}\n{GOOD}\n", tmp_path, capsys)
    assert code == 1
    place = len(",".join(bad.split(",")[: COLUMNS.index(column_of(column))])) + 2 if column != "spec" else 1
    assert f"{tmp_path / 'runs.csv'}:3:{place}: {code_and_path}" in err
    assert rule in err
    assert "; fix: " in err
    assert numbers(rows) == [numbers(alone)[0], ("", ""), numbers(alone)[1]]


def test_true_is_not_1_even_after_a_row_that_says_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, true = with_cells(tp="1", dp="1"), with_cells(tp="true", dp="1")
    code, _, err = predict(f"{HEADER}\n{one}\n{true}\n", tmp_path, capsys)
    assert code == 1
    assert "parallel.tp: expected an integer, got a boolean, True" in err


def test_a_row_says_everything_that_is_wrong_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = with_cells(hidden_size="big", tp="0", global_size="-1")
    _, _, err = predict(f"{HEADER}\n{bad}\n", tmp_path, capsys)
    named = [line.split(" ")[2] for line in err.splitlines() if ": error[" in line]
    assert named == [f"{column_of(name)}:" for name in ("hidden_size", "tp", "global_size")]


def test_a_long_row_is_at_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows, err = predict(f"{HEADER}\n{GOOD},6\n{GOOD}\n", tmp_path, capsys)
    assert (code, rows[0]["predicted_ms"]) == (1, "")
    assert rows[1]["predicted_ms"]
    assert (
        f"{tmp_path / 'runs.csv'}:2:1: error[S103] row: the header names a column for every cell, got 1 more: 6" in err
    )


def test_places_are_those_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After cells in quotes, with commas and line breaks in them, and after blank lines."""
    text = 'note,spec,modules.language.parallel.tp\n\n"a ""b"", c\nd", a100_gpt.yaml,  "big"\n'
    _, _, err = predict(text, tmp_path, capsys)
    assert f"{tmp_path / 'runs.csv'}:4:21: error[S103] modules.language.parallel.tp: " in err


def test_a_fault_of_the_spec_itself_is_said_once_and_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a100_gpt.yaml").write_text((FOLDER / "a100_gpt.yaml").read_text().replace("schema: 1", "schema: 2"))
    code, _, err = predict(f"{HEADER}\n{GOOD}\n{GOOD}\n", tmp_path, capsys)
    assert code == 1
    assert err.count("error[") == 1
    assert f"{tmp_path / 'a100_gpt.yaml'}:2:1: error[S104] schema: " in err


def test_a_fault_between_a_value_and_the_spec_is_in_the_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rule is about a key that the row leaves as it is."""
    _, _, err = predict("note,spec,batch.global_size\nx,a100_gpt.yaml,12\n", tmp_path, capsys)
    assert f"{tmp_path / 'runs.csv'}:2:17: error[B001] batch.global_size: " in err
    _, _, err = predict("note,spec,modules.language.model.num_layers\nx,a100_gpt.yaml,7\n", tmp_path, capsys)
    assert f"{tmp_path / 'runs.csv'}:2:3: error[M004] modules.language.parallel.pp: " in err


def test_a_module_of_another_spec_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """But only in a row that gives it a value."""
    text = "spec,modules.langauge.parallel.tp\na100_gpt.yaml,\na100_gpt.yaml,2\n"
    code, rows, err = predict(text, tmp_path, capsys)
    assert code == 1
    assert [bool(row["predicted_ms"]) for row in rows] == [True, False]
    assert "runs.csv:3:15: error[S101] modules.langauge.parallel.tp: a100_gpt.yaml has the modules language, got" in err
    assert 'did you mean "language"?' in err


def test_equal_rows_are_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each file is read once."""
    calls: list[str] = []
    for name in ("compile_spec", "read_plan_or_spec", "_read_software"):

        def counted(argument: object, name: str = name, function: object = getattr(row_work, name)) -> object:
            calls.append(name)
            return function(argument)  # type: ignore[operator]

        monkeypatch.setattr(row_work, name, counted)
    runs = read_runs("\n".join([HEADER, GOOD, GOOD, with_cells(tp="2", dp="4"), GOOD]), str(tmp_path / "runs.csv"))
    assert len(samples_of(runs)) == 4
    assert sorted(calls) == ["_read_software", "compile_spec", "compile_spec", "read_plan_or_spec"]


HEADERS = {
    "another header": (
        "a,b\n1,2\n",
        "1:1: error[S102] header: a file of runs has a column `spec`, got other names alone",
    ),
    "an empty file": ("", "got nothing"),
    "no spec": (HEADER.replace("spec,", "specs,"), "has a column `spec`, got specs, software, "),
    "semicolons": (HEADER.replace(",", ";"), "cells are separated by commas, got semicolons"),
    "tabs": (HEADER.replace(",", "\t"), "got tabs"),
    "a column twice": (HEADER + ",ms", "names each column once, got 'ms' more than once"),
    "a quote left open": (f'{HEADER}\n8,"32', "the text is CSV: "),
    "bytes": (b"\x00\xff\xfe\x01", "error[S003]"),
    "a misspelt path": ("spec,modules.language.paralel.tp", "1:6: error[S101] modules.language.paralel: "),
    "a key one level up": ("ms,spec,modules.language.tp", "1:9: error[S101] modules.language.tp: 'tp' is not a key of"),
    "another system's name": ("spec,modules.language.model.head_dim", "write `kv_channels`"),
    "a part of a list": ("spec,modules.language.stages.0", "fix: name the column modules.language.stages"),
    "a column in a column": ("spec,batch,batch.micro_size", "1:12: error[S107] header: a value is overridden by one"),
    "unknown software": ("spec,software.flash", "1:6: error[S101] software.flash: 'flash' is not a key of software"),
    "a name with a dot": ("spec,loss.mean", "a name with a dot is a path into the spec"),
    "a dot too many": ("spec,modules..tp", "1:6: error[S106] modules.: a name is a letter, then"),
    "a dot at the end": ("spec,modules.language.parallel.", "1:6: error[S101] modules.language.parallel.: '' is not"),
    "a blank within": ("spec,modules.language.parallel .tp", 'did you mean "parallel"?'),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_says_what_is_wrong_with_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, wanted = HEADERS[name]
    code, rows, err = predict(text, tmp_path, capsys)
    assert (code, rows) == (1, [])
    assert wanted in err
    assert f"{tmp_path / 'runs.csv'}:" in err


@pytest.mark.parametrize("header", ["h,ffn,L,TP,ms", "# GPUs,global batch,iteration time (ms)"])
def test_a_table_of_another_form_is_told_how_to_convert_it(
    header: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = predict(header + "\n1,2,3,4,5\n", tmp_path, capsys)
    assert err.count("error[") == 1
    for part in ("`spec`", "paths into the spec", "ms, GiB or metrics", "To convert another table"):
        assert part in err


def test_other_columns_are_kept_and_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = {"time (v. 2)": "x", "my notes": "1.5", "see A.3": "", "tp": "3", "name": "llava"}
    text = f"spec,{','.join(notes)}\na100_gpt.yaml,{','.join(notes.values())}\n"
    code, (row,), _ = predict(text, tmp_path, capsys)
    assert code == 0
    assert notes.items() <= row.items()


CELLS = st.one_of(
    st.text(max_size=20),
    st.text("[]{}:,#&*!|>'\"%@` -0123456789.eE~nulltrue\n\t", max_size=12),
    st.sampled_from(
        ["4", "1e999", "-0", ".nan", "[1, [2]]", "{a: 1}", "&a [*a]", "!!python/x y", "2001-01-01", "<<: 1"]
    ),
)
PATHS = ["modules.language.parallel.tp", "modules.language", "batch", "topology", "placement", "cluster.gpu"]


@given(st.lists(st.sampled_from([*PATHS, "software.dropout", "note"]), unique=True), st.data())
def test_no_cell_ends_in_a_traceback(names: list[str], data: st.DataObject) -> None:
    """Whatever is written, there is a prediction or there are faults, each with a place in the file."""
    names = [name for name in names if not ("modules.language" in names and name == PATHS[0])]
    out = StringIO()
    csv.writer(out).writerows([["spec", *names], ["a100_gpt.yaml", *(data.draw(CELLS) for _ in names)]])
    file = str(FOLDER / "runs.csv")
    found = predict_runs(read_runs(out.getvalue(), file), load_hardware("a100"))
    assert bool(found.faults) == (found.rows[0] is None)
    assert all(fault.mark and fault.mark.file == file and fault.remedy for fault in found.faults)


@given(st.lists(st.one_of(CELLS, st.sampled_from([*PATHS, "spec", "modules.language.x", "a.b"])), max_size=6))
def test_no_header_ends_in_a_traceback(header: list[str]) -> None:
    out = StringIO()
    csv.writer(out).writerow(header)
    faults: tuple[Fault, ...] = ()
    try:
        found = read_runs(out.getvalue(), "runs.csv")
    except PlanError as error:
        faults = error.faults
    assert all(fault.mark and fault.remedy for fault in faults)
    assert faults or "spec" in found.columns.header


def test_errors_are_said_where_runs_were_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (FOLDER / "b200_llama_given.csv").read_text()
    _, rows, err = predict(text, tmp_path, capsys)
    errors = [abs(float(row["predicted_ms"]) / float(row["ms"]) - 1) for row in rows]
    assert f"time of 16 measured runs: mean error {sum(errors) / 16:.1%}, largest {max(errors):.1%}, Spearman " in err
    assert "memory of 16 measured runs: mean error" in err


def test_a_measurement_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its row is predicted all the same. An empty cell is not mentioned, and two runs have no rank correlation."""
    header, first, second, third = SINGLE
    rows = [header, first, second.rpartition(",")[0] + ",OOM", third.rpartition(",")[0] + ",", first]
    code, found, err = predict("\n".join(rows), tmp_path, capsys)
    assert (code, len(found)) == (0, 4)
    assert all(row["predicted_ms"] for row in found)
    time, note = err.splitlines()
    assert time.startswith("time of 2 measured runs: mean error ")
    assert "Spearman" not in time
    assert note.startswith("1 cell not counted as measured, the first in line 3: ms is a number above")
    assert note.endswith("got 'OOM'")


def test_predictions_are_not_rounded_to_what_one_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, (row,), _ = predict(f"{HEADER}\n{GOOD}\n", tmp_path, capsys)
    assert all(len(row[key].partition(".")[2]) == 6 for key in ("predicted_ms", "predicted_GiB"))
