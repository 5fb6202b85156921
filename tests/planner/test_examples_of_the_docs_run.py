"""Law: every example in README and docs runs, and prints what it says; what does not run here is listed, with a reason.

A console block holds commands behind `$ ` with what they print; a line of `...` stands for lines that are left out.
Python blocks of a page run one after the other with the same names, and a comment such as `# ((4, 6), (5, 7)), in ...`
says what its line gives. YAML blocks are specs, or files if their first line is a comment with a name; CSV blocks are
files of runs, which the commands of their page read.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import attrs
import pytest

from planner import Plan, compile_spec, parse_spec
from planner.cli import main
from planner.layout.ir import GroupKind
from tests import ROOT
from tests.strategies import proven

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"console", "csv", "python", "sh", "text", "yaml"}
RUN_ELSEWHERE = {  # how a command or a block begins -> why no test of this file runs it
    "pip install uv && uv run mimo": "installs: the second half is the first example of README",
    "uv run --extra executor --group dev pytest": "runs all tests",
    "torchrun ": "needs ranks: tests/executor/test_commands_answer_on_real_ranks.py runs README's, word for word",
    "python -m executor train": "imports torch: the same test",
    "import os\n": "needs ranks: tests/executor/test_own_loops_train_as_trainer_does.py",
}
FILES = {  # files that the pages name and do not show
    "llava_8gpu.yaml": "examples/llava_8gpu.yaml",
    "spec.yaml": "examples/llava_8gpu.yaml",
    "gpt.yaml": "tests/data/runs/a100_gpt.yaml",
}
RUNS = ("sweep.csv", "software.csv")  # names of the CSV blocks, in their order


@attrs.frozen
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^(`{3,})([^\n]*)\n(.*?)^\1$", page.read_text(), flags=re.M | re.S)
    return [Block(page, language, text) for _, language, text in found if not language.startswith("{")]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def elsewhere(text: str) -> str | None:
    return next((start for start in RUN_ELSEWHERE if text.startswith(start)), None)


def commands(block: Block) -> list[tuple[str, str]]:
    """Each command of a console block with the text below it."""
    parts = re.split(r"^\$ ", block.text, flags=re.M)
    assert parts[0] == "", f"{block.page}: a console block begins with a command"
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts[1:])]


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages name, in which commands may write."""
    for name in ("examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, source in FILES.items():
        (tmp_path / name).write_text((ROOT / source).read_text())
    for name, block in zip(RUNS, of("csv"), strict=True):
        (tmp_path / name).write_text(block.text)
    for block in of("yaml"):
        if name := file_name(block):
            (tmp_path / name).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def file_name(block: Block) -> str | None:
    """The name of a block that is a file: `# name.yaml` in its first line."""
    found = re.match(r"# (\w+\.yaml)\n", block.text)
    return found and found[1]


def run(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of a command, and all that it prints: standard output before standard error."""
    program, *arguments = shlex.split(command)
    assert program == "mimo"
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def compare(printed: str, shown: str) -> None:
    """What a page shows is what was printed, but for the lines that `...` stands for."""
    pieces = re.split(r"^\.\.\.\n", shown, flags=re.M)
    if len(pieces) == 1:
        assert printed == shown
        return
    assert printed.startswith(pieces[0])
    place = 0
    for piece in pieces:
        place = printed.find(piece, place)
        assert place >= 0, piece
        assert place == 0 or printed[place - 1] == "\n", "a shown line is a whole line"
        place += len(piece)
    assert place == len(printed) or not pieces[-1]


@pytest.mark.parametrize(
    "block", of("console"), ids=lambda block: f"{block.page.stem}: {block.text.partition(chr(10))[0]}"
)
@pytest.mark.usefixtures("at_home")
def test_commands_print_what_the_pages_say(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    for command, shown in commands(block):
        if elsewhere(command):
            assert not shown, "nothing holds what it prints to the page"
            continue
        code, printed = run(command, capsys)
        assert code == (1 if "error[" in shown else 0), printed
        if shown:
            compare(printed, shown)


@pytest.mark.parametrize("page", [page for page in PAGES if of("python")], ids=lambda page: page.stem)
@pytest.mark.usefixtures("at_home")
def test_python_blocks_run_and_give_what_they_say(page: Path) -> None:
    names: dict[str, object] = {}
    for block in of("python"):
        if block.page != page or elsewhere(block.text):
            continue
        exec(compile(block.text, str(page), "exec"), names)  # noqa: S102  the page's own code
        for line in block.text.splitlines():
            expression, _, comment = line.partition("#")
            if comment.strip().startswith(("((", "slice")):
                shown = re.split(r", in |: ", comment)[0].strip()
                assert eval(expression, names) == eval(shown)  # noqa: S307
    for plan in names.values():
        if isinstance(plan, Plan):
            proven(plan)


@pytest.mark.parametrize("block", of("yaml"), ids=lambda block: block.page.stem)
def test_specs_of_the_pages_plan(block: Block) -> None:
    if not file_name(block):
        proven(compile_spec(parse_spec(block.text, block.page.name)))


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.usefixtures("at_home")
def test_files_of_runs_are_predicted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = run(f"mimo predict --csv {name}", capsys)
    assert code == 0, printed
    header = printed.partition("\n")[0].split(",")
    assert header[-2:] == ["predicted_ms", "predicted_GiB"]


def test_the_page_shows_the_tests_of_the_example() -> None:
    example = (ROOT / "examples" / "testing" / "test_our_layout.py").read_text()
    assert example in [block.text for block in of("python")]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert BLOCKS
    for block in BLOCKS:
        assert block.language in LANGUAGES, f"{block.page}: ```{block.language}"


def test_what_runs_elsewhere_is_there() -> None:
    """No reason outlives its example, and shell blocks hold nothing else."""
    lines = [line for block in of("sh") for line in block.text.splitlines()]
    assert lines
    assert all(elsewhere(line) for line in lines)
    given = (
        [command for block in of("console") for command, _ in commands(block)]
        + lines
        + [block.text for block in of("python")]
    )
    assert {elsewhere(text) for text in given} - {None} == set(RUN_ELSEWHERE)


def test_every_page_shows_the_same_ranks() -> None:
    """One shell block, which the executor's tests run from README, word for word."""
    assert len({block.text for block in of("sh")}) == 1


def test_torchrun_commands_take_any_free_port() -> None:
    """Two runs on one machine would meet at torchrun's default port."""
    found = [line for block in BLOCKS for line in block.text.splitlines() if line.startswith("torchrun ")]
    assert found
    assert all(" --standalone " in line for line in found)


def test_the_plans_page_names_every_kind_of_group() -> None:
    page = (ROOT / "docs" / "plan.md").read_text().partition("## The laws")[2]
    for kind in GroupKind:
        assert f"`{kind}`" in page, kind


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_links_between_pages_lead_somewhere() -> None:
    """Sphinx checks those of docs; README is read as it stands."""
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_no_page_holds_a_placeholder() -> None:
    for page in PAGES:
        assert not re.search(r"^[A-Z]{4,}$|TODO|FIXME", page.read_text(), flags=re.M), page
