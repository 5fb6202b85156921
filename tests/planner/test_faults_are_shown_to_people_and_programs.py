"""Law: a fault fits its reader: a terminal of any width, a pipe, a program."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
import sys
import webbrowser
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest

from planner import PlanError, compile_spec, parse_spec
from planner.base.errors import Fault
from planner.cli import main
from planner.render.faults import fault_fields, fault_lines
from planner.render.style import Style
from tests import ROOT
from tests.planner.test_wrong_specs_get_the_right_remedy import WRONG

LONG = "parallel: {tp: 2, pp: 3, ttp: 3, order: tp-cp-dp-pp, sequence_parallel: true}"
SPEC = f"batch: {{global_size: 4, micro_size: 4, seq_length: 64}}\nmodules:\n  language:\n    {LONG}\n"


def faults_of(text: str) -> tuple[Fault, ...]:
    with pytest.raises(PlanError) as caught:
        compile_spec(parse_spec(text, "s.yaml"))
    return caught.value.faults


def on_terminal(width: int, *arguments: str, folder: Path = ROOT, typed: bytes = b"") -> list[str]:
    """What a command prints on a terminal of so many columns.

    Args:
        width: the columns.
        arguments: the command.
        folder: where it runs.
        typed: what is typed while it runs.
    """
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "planner", *arguments], stdout=theirs, stderr=theirs, stdin=theirs, cwd=folder,
        env=environment | {"TERM": "xterm", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, typed)
    found = b""
    try:
        while piece := os.read(ours, 65536):
            found += piece
    except OSError:  # how Linux ends a terminal
        pass
    os.close(ours)
    process.wait()
    return found.decode().replace("\r\n", "\n").splitlines()


@pytest.mark.parametrize("width", [80, 200])
def test_a_terminal_shows_the_line_with_the_place_marked(width: int, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SPEC)
    coloured = on_terminal(width, "plan", str(path))
    assert any("\x1b[31m" in line for line in coloured)
    lines = [re.sub("\x1b\\[\\d+m", "", line) for line in coloured]
    assert all(len(line) <= width for line in lines)
    at = next(index for index, line in enumerate(lines) if "^" in line)
    assert lines[at].count("^") == len("ttp: 3")
    assert lines[at - 1][lines[at].index("^") :].startswith("ttp: 3")
    assert lines[at - 1].startswith("  4 | ")
    assert lines[at + 1] == '    fix: did you mean "tp"? otherwise remove it'


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("name", WRONG)
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    for fault in faults_of(WRONG[name][0]):
        lines = fault_lines(fault, Style(width=width, is_terminal=True))
        assert max(map(len, lines)) <= width
        assert "".join(fault.rule.split()) in "".join("".join(lines).split())
        assert "".join(fault.remedy.split()) in "".join("".join(lines).split())
        (line,) = fault_lines(fault, Style(width=width))  # a pipe
        assert fault.rule in line
        assert fault.remedy in line


def test_wide_characters_do_not_move_the_mark() -> None:
    text = SPEC.replace(LONG, 'output: {"\u56fe": 1, tp: 2}')
    marked = next(fault for fault in faults_of(text) if fault.path[-1] == "tp")
    *_, line, below, _ = fault_lines(marked, Style(width=80, is_terminal=True))
    assert below.index("^") == line.index("tp: 2") + 1  # the character before it takes two columns


def test_a_program_reads_objects(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SPEC.replace("ttp: 3", "dp: 0"))
    done = subprocess.run(
        [sys.executable, "-m", "planner", "plan", str(path), "--format", "json"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(line) == {
        "code": "S104",
        "severity": "error",
        "file": str(path),
        "line": 4,
        "column": 30,
        "end": 35,
        "path": "modules.language.parallel.dp",
        "rule": "1 <= dp <= 16777216, got 0",
        "values": [1, 16777216, 0],
        "remedy": "choose a value from 1 to 16777216",
    }


def test_values_are_the_numbers_and_quoted_words_of_the_rule() -> None:
    (fault,) = faults_of(SPEC)
    assert fault_fields(fault)["values"] == ["ttp"]


def test_nothing_of_another_file_is_shown(tmp_path: Path) -> None:
    """A text without a key of a spec may be anything, a secret too."""
    path = tmp_path / "s.yaml"
    path.write_text("token: hunter2\nother: [\n")
    assert "hunter2" not in "".join(on_terminal(80, "plan", str(path)))
    path.write_text("token: hunter2\n")
    assert "hunter2" not in "".join(on_terminal(80, "plan", str(path)))


PLANS = "examples/llava_8gpu.yaml", "examples/llava_8gpu_colocated.yaml"


@pytest.mark.parametrize(
    "arguments",
    [
        ("diff", *PLANS),
        ("explain", "P004"),
        ("explain",),
        ("predict", PLANS[0]),
        ("report", PLANS[0], "-o", "page.html", "--trace", "trace.json"),
        ("plan", PLANS[0]),
        ("plan", PLANS[0], "--rank", "5"),
    ],
    ids=" ".join,
)
def test_results_are_json_too(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert main([*arguments, "--format", "json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert all(json.loads(line)["severity"] in ("warning", "note") for line in printed.err.splitlines())
    if arguments[0] == "report":
        assert found == {"wrote": ["page.html", "trace.json"]}
    if arguments == ("explain", "P004"):
        assert [one["name"] for one in found] == ["P004"]
    if arguments[0] == "diff":
        assert found["differences"]


@pytest.mark.parametrize("command", ["plan", "predict", "report", "diff", "explain", "gpus", "init"])
def test_an_unknown_option_shows_the_usage_of_its_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"report": [PLANS[0], "-o", "x.html"], "diff": [*PLANS], "gpus": [], "init": [], "explain": []}
    with pytest.raises(SystemExit) as caught:
        main([command, *given.get(command, [PLANS[0]]), "--nope"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"usage: mimo {command} ")
    assert told.endswith(f"mimo {command}: error: unrecognized arguments: --nope\n")


def test_what_stands_in_no_file_was_given_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(ROOT / PLANS[0]), "--gpu", "h101"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("<command line>:1:1: error[S105] cluster.gpu: the GPU is one of ")
    assert 'did you mean "h100"?' in told


def test_a_program_reads_nothing_but_objects_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "batch: {global_size: 54000, micro_size: 1, seq_length: 64}\nmodules:\n  language: {parallel: {pp: 1}}\n"
    )
    assert main(["report", str(path), "-o", str(tmp_path / "p.html"), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert told == [{"message": "no model is given for language: the pipeline is drawn without times"}]


def test_what_cannot_run_is_not_doubted_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """575 tokens are neither a multiple of an image's 576 (which cannot run) nor a divisor (which is doubtful)."""
    path = tmp_path / "s.yaml"
    path.write_text((ROOT / PLANS[0]).read_text().replace("tokens_per_sample: 576", "tokens_per_sample: 575"))
    assert main(["plan", str(path), "--json"]) == 0
    assert [json.loads(line)["code"] for line in capsys.readouterr().err.splitlines()] == ["R401"]
    assert main(["predict", str(path), "--json"]) == 0
    codes = [json.loads(line)["code"] for line in capsys.readouterr().err.splitlines()]
    assert codes == ["W004", "N002"]


def test_a_page_is_opened_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)  # type: ignore[func-returns-value]
    page = tmp_path / "page.html"
    assert main(["report", PLANS[0], "-o", str(page), "--open"]) == 0
    assert opened == [f"file://{page}"]
    assert on_terminal(80, "report", PLANS[0], "--trace", str(tmp_path / "t.json"))[-1] == f"wrote {tmp_path}/t.json"
    with pytest.raises(SystemExit) as caught:
        main(["report", PLANS[0], "--trace", str(page), "--open"])
    assert caught.value.code == 2
