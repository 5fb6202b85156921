"""Law: nothing that a user wrote reaches a stream but printable characters, and of a file of another kind nothing does.

A name may hold an escape sequence that clears the screen, a line end that begins a false message, or an override of
writing direction. A file that is named by mistake may hold a secret, and messages are copied into issues.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.commands.cli import main as executor
from planner import PlanError, parse_spec
from planner.base.printable import printable, printable_lines
from planner.cli import main
from planner.cost.timing.hardware import parse_hardware
from tests import EXAMPLES

TINY = EXAMPLES / "tiny_4rank.yaml"
BAD = ["\x1b[2J", "\x07", "\x7f", "\x9b31m", "\u202e", "\u2066", "\u2028", "\u2029", "\x85", "\r", "\u200b", "\ufeff"]


@given(st.text())
def test_what_is_printable_is_on_one_line_and_has_no_controls(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()
    assert printable_lines(text).count("\n") == text.count("\n")


@pytest.mark.parametrize("bad", BAD, ids=ascii)
def test_names_of_files_reach_no_stream_raw(bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, missing = tmp_path / f"a{bad}b.yaml", tmp_path / f"c{bad}d.yaml"
    spec.write_text(TINY.read_text())
    plan, page, runs = tmp_path / f"p{bad}.json", tmp_path / f"e{bad}.html", tmp_path / f"r{bad}.csv"
    runs.write_text("spec,ms\nx.yaml,1\n")
    assert main(["plan", str(spec), "--out", str(plan)]) == 0
    commands = [
        ["plan", spec], ["predict", spec], ["report", spec, "-o", page], ["diff", spec, missing], ["plan", missing],
        ["plan", plan, "--nodes", "2"], ["predict", spec, "--gpu", missing], ["plan", spec, "--out", spec],
        ["plan", spec, "--out", tmp_path / bad / bad], ["predict", "--csv", runs], ["calibrate", runs, "-o", missing],
        ["calibrate", runs, "-o", tmp_path / bad], ["predict", runs], ["predict", "--csv", runs, "--root", missing],
        ["report", spec, "--trace", tmp_path / f"t{bad}.json"], ["explain", bad], ["plan", spec, f"--{bad}"],
    ]  # fmt: skip
    for command in commands:
        with suppress(SystemExit):  # misuse that argparse finds
            main(list(map(str, command)))
    found = capsys.readouterr()
    for text in (found.out, found.err, page.read_text()):
        assert bad not in text
    assert ascii(bad)[1:-1] in found.out
    assert ascii(bad)[1:-1] in found.err
    assert all(line.isprintable() for line in found.err.split("\n"))


@pytest.mark.parametrize("bad", BAD, ids=ascii)
def test_cells_reach_no_stream_raw(bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs.csv"
    text = f'spec,notes,"my{bad}notes",ms\n"x{bad}{TINY.name}","{bad}",x,"{bad}"\n{TINY.name},"a{bad}b",x,1\n'
    runs.write_text(text, newline="")
    (tmp_path / TINY.name).write_text(TINY.read_text())
    assert main(["predict", "--csv", str(runs)]) == 1
    found = capsys.readouterr()
    assert ascii(bad)[1:-1] in found.out
    for stream in (found.out, found.err):
        assert bad not in stream
        assert all(line.isprintable() for line in stream.split("\n"))


@pytest.mark.parametrize("bad", BAD, ids=ascii)
def test_the_executor_echoes_no_argument_raw(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert executor(["check", "x.yaml", f"--{bad}"]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert bad not in found.err
    assert ascii(bad)[1:-1] in found.err


# ---- a file of another kind

SECRET = "hunter2"  # noqa: S105  of nobody
OTHERS = {
    "passwd": f"root:x:0:0:{SECRET}:/root:/bin/bash\ncluster:x:1:1:{SECRET}:/:/bin/sh\n",
    "private key": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}AAAA: [b\n%{SECRET}\n-----END KEY-----\n",
    "env": f"TOKEN={SECRET}\nPASSWORD={SECRET}\n",
    "yaml": f"token: {SECRET}\nname: {SECRET}\n{SECRET}: 0123\n",
    "yaml with faults": f"token: !{SECRET} x\n{SECRET}: 1\n{SECRET}: 2\nport: *{SECRET}\n",
    "kubeconfig": f"clusters:\n- cluster:\n    server: {SECRET}\n  name: {SECRET}\nusers: [{SECRET}]\n",
    "list": f"- {SECRET}\n- {SECRET}\n",
    "json": f'{{"token": "{SECRET}"}}',
    "table": f"user,password\nme,{SECRET}\n",
    "one word": SECRET,
    "latin-1": f"token: {SECRET}\xe9\n",
}


@pytest.mark.parametrize("name", OTHERS)
def test_of_a_file_of_another_kind_nothing_is_quoted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.yaml"
    other.write_bytes(OTHERS[name].encode("latin-1"))
    spec = tmp_path / "spec.yaml"
    spec.write_text(TINY.read_text())
    runs = tmp_path / "runs.csv"
    for command in (
        ["plan", str(other)],
        ["predict", "--csv", str(other)],
        ["calibrate", str(other)],
        ["predict", str(spec), "--gpu", str(other)],
    ):
        assert main(command) == 1
    for column in ("spec", "software", "metrics", "cluster.gpu"):
        cells = {"spec": "spec.yaml", column: str(other) if column == "cluster.gpu" else "other.yaml"}
        runs.write_text(",".join(cells) + "\n" + ",".join(cells.values()) + "\n")
        main(["predict", "--csv", str(runs)])
    found = capsys.readouterr()
    assert not re.search(f"(?i){SECRET}", found.err)
    assert f"{other}:" in found.err


@pytest.mark.parametrize(
    "text", ["batch: {}\n", '{"batch": 1}', "{modules: 1}", "# x\nschema: 1\nnonsense: [", "topology:\n"]
)
def test_of_what_looks_like_a_spec_the_values_are_quoted(text: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_spec(text)
    assert "nothing of it is quoted" not in str(caught.value)


def test_a_hardware_file_is_quoted() -> None:
    with pytest.raises(PlanError, match="'speed' is not a key of the hardware"):
        parse_hardware("num_sms: 1\nspeed: 3\n")
