"""Law: no input makes the planner work without bounds. What is left out is said.

Time is not asserted. A process that works without bounds is ended by the operating system (RLIMIT_CPU), far above what
the work takes, or has its largest memory compared with the limit; elsewhere work is counted.
"""

from __future__ import annotations

import difflib
import json
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import PlanError, compile_spec, parse_spec
from planner.base.errors import Faults
from planner.base.suggestions import MAX_STEPS, Suggestions
from planner.commands.report import content_of, predicted
from planner.cost.predict import predict
from planner.cost.simulation.perfetto import trace_text
from planner.layout.coords import Box
from planner.layout.ir import num_ranks_of, ranks_of
from planner.report.page import render_page
from planner.spec.fields import show
from planner.spec.loader import MAX_BYTES
from planner.spec.spec import SPEC_TYPE
from tests import EXAMPLES

CPU_SECONDS = 40  # for what takes one
PRIME = 16_777_213
VICUNA, CLIP = "model: {preset: vicuna-7b}", "model: {preset: clip-vit-l-14-336}"
_SCRIPT = """
import re, sys
from planner.cli import main
code = main(sys.argv[1:])
print("kB:", re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
sys.exit(code)
"""  # the largest memory of the process, as Linux counts it


def run(*arguments: str | Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """A command in a process of its own, which is ended above CPU_SECONDS; and its largest memory, in MB."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS)),
    )
    assert done.returncode in (0, 1, 2), done
    assert "Traceback" not in done.stderr
    done.stderr, _, kilobytes = done.stderr.rpartition("kB: ")
    return done, int(kilobytes) / 1024


def spec_text(language: str, images: str, micro: int, steps: int = 1, *, sized: bool = True) -> str:
    models = (f", {VICUNA}", f", {CLIP}") if sized else ("", "")
    return (
        f"batch: {{global_size: {micro * steps}, micro_size: {micro}, seq_length: 2048}}\nmodules:\n"
        f"  language: {{parallel: {{{language}}}{models[0]}}}\n  images: {{parallel: {{{images}}}{models[1]}}}\n"
    )


def staged_text(stages: int, encoders: int) -> str:
    """A language module and encoders of as many stages each."""
    sizes = f"parallel: {{pp: {stages}}}, model: {{num_layers: {stages}, hidden_size: 64, num_attention_heads: 8"
    language = f"  language: {{{sizes}, family: gpt, vocab_size: 512, max_positions: 64}}}}\n"
    images = "".join(f"  m{i}: {{{sizes}, family: vit, image_size: 32, patch_size: 8}}}}\n" for i in range(encoders))
    return f"batch: {{global_size: 2, micro_size: 1, seq_length: 64}}\nmodules:\n{language}{images}"


# ---- a bridge with 16 million transfers


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("ends", [("dp: 1", f"dp: {PRIME}"), (f"dp: {PRIME}", "dp: 1")])
def test_a_bridge_of_a_prime_number_of_lanes_is_not_listed(ends: tuple[str, str], sized: bool, tmp_path: Path) -> None:
    path = tmp_path / "prime.yaml"
    path.write_text(spec_text(*ends, PRIME, sized=sized))
    plan, _ = run("plan", path)
    assert plan.returncode == 0
    assert f"{PRIME:,} transfers" in plan.stdout
    assert f"... {PRIME - 6} more" in plan.stdout
    page = tmp_path / "page.html"
    report, _ = run("report", path, "-o", page)
    assert report.returncode == 0
    assert "no timeline: the ranks of a prediction <= 262,144" in report.stderr
    assert "the ranks of stages are left out above" in page.read_text()
    leading = "0" if ends[0] == "dp: 1" else str(PRIME)  # the one rank of the narrow side
    leader, _ = run("plan", path, "--rank", leading)
    assert f"{PRIME - 4096:,} more, left out above 4,096" in leader.stdout
    view, _ = run("plan", path, "--rank", leading, "--format", "json")
    (edge,) = json.loads(view.stdout)["transfers"]
    assert PRIME - 4096 in edge.values()
    predicted, megabytes = run("predict", path)
    assert predicted.returncode == 1
    assert f"error[{'S006' if sized else 'S102'}]" in predicted.stderr
    assert megabytes < 200


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (spec_text("dp: 262144", "dp: 262144", 262_144), "ranks of a prediction <= 262,144, got 524,288"),
        (staged_text(205, 4), "stages of a prediction <= 384, got 1,025"),
        (spec_text("dp: 1", "dp: 1", 1, 100_000), "passes of a step (microbatches * (stages + edges) * 2) <= 110,000"),
        (spec_text("dp: 1", "dp: 32771", 32_771), "messages of bridges that differ <= 32,768, got 32,771"),
    ],
)
def test_a_plan_that_is_too_large_to_be_predicted_is_refused(text: str, says: str) -> None:
    with pytest.raises(PlanError) as caught:
        predict(compile_spec(parse_spec(text)))
    (fault,) = caught.value.faults
    assert fault.code.name == "S006"
    assert says in fault.rule
    assert "the plan itself is valid" in fault.remedy


def test_equal_blocks_of_many_lanes_are_predicted() -> None:
    """The limit is of messages that differ: 131,072 lanes that feed as many are alike, node after node."""
    assert predict(compile_spec(parse_spec(spec_text("dp: 131072", "dp: 131072", 131_072)))).step_seconds > 0


boxes = st.builds(
    lambda start, digits: Box.of(start, [(size, stride) for size, stride in digits]),
    st.integers(0, 30),
    st.sampled_from([(), ((3, 1),), ((4, 2),), ((2, 8), (3, 2)), ((3, 5),), ((2, 12), (2, 6), (5, 1))]),
)


@given(st.lists(boxes, min_size=1, max_size=4))
def test_ranks_are_counted_as_they_are_listed(found: list[Box]) -> None:
    assert num_ranks_of(found) == len(ranks_of(found))


# ---- documents with very many keys


@pytest.mark.parametrize("place", [(), ("spec",), ("spec", "modules"), ("spec", "training"), ("batch",), ("edges", 0)])
def test_a_plan_with_sixty_thousand_keys_is_refused_in_linear_time(place: tuple[Any, ...], tmp_path: Path) -> None:
    document = json.loads(compile_spec(parse_spec((EXAMPLES / "tiny_4rank.yaml").read_text())).to_json())
    section = document
    for key in place:
        section = section[key]
    section.update({f"learning_rat{i:05}": i for i in range(60_000)})
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    done, _ = run("plan", path)
    assert done.returncode == 1
    assert len(done.stderr) < 200_000


def test_a_key_that_is_written_twice_is_found_in_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    keys = ", ".join(f'"k{i}": 1' for i in range(60_000))
    path.write_text(f'{{"mimo_plan": 1, {keys}, "k59999": 2}}')
    done, _ = run("plan", path)
    assert "the key 'k59999' is written twice" in done.stderr


def test_suggestions_of_one_input_share_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    ratio = difflib.SequenceMatcher.ratio

    def counted(self: Any) -> float:
        nonlocal compared
        compared += len(self.a) * len(self.b)
        return ratio(self)

    monkeypatch.setattr(difflib.SequenceMatcher, "ratio", counted)
    modules = {f"m{i}": {"paralel": {f"order{j}": 1 for j in range(9)}, "frezze": True} for i in range(250)}
    faults = Faults()
    SPEC_TYPE.parse({"bach": 1, "modules": {"language": {}, **modules}}, (), faults)
    assert faults.has_errors
    assert 0 < compared <= MAX_STEPS + 64 * 64


def test_a_suggestion_is_the_closest_word() -> None:
    known = ["global_size", "micro_size", "seq_length"]
    assert Suggestions().closest("Globl_Size", known) == "global_size"
    assert Suggestions().closest("mikro_size", known) == "micro_size"
    assert Suggestions().closest("colour", known) is None
    assert Suggestions(steps=0).closest("micro_sizes", known) is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80) | st.binary(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=8,
)


@given(anything)
def test_values_are_shown_as_python_writes_them(value: Any) -> None:
    text = repr(value)
    if len(text) <= 48:
        assert show(value) == text
    else:
        assert len(show(value)) == 48
        assert show(value).endswith("...")


def test_of_a_large_value_only_the_beginning_is_read() -> None:
    """A text that aliases repeat is one object; written out, the list would have 4 GB."""
    text = "x" * 200_000
    assert show([text] * 20_000) == "['" + "x" * 43 + "..."


# ---- texts that are made to be slow

WIDE = "batch: {global_size: 1, micro_size: 1, seq_length: 8}\nmodules:\n  language: {}\n"
HOSTILE = {
    "values": "a: [" + "1," * 130_000 + "]",
    "keys": "{" + "a," * 130_000 + "}",
    "anchors": "".join(f"k{i}: &k{i} 1\n" for i in range(15_000)),
    "a long text that aliases repeat": "a: &a " + "x" * 200_000 + "\nb: [" + "*a," * 15_000 + "]",
    "modules that are a long text": "batch: &a "
    + "x" * 200_000
    + "\nmodules: {"
    + "".join(f"m{i}: *a, " for i in range(250))
    + "}",
    "control characters in a key": '"' + "\\e" * 100_000 + '": {a: 1}',
    "a wide topology": WIDE
    + "".join(f"  k{i}: {{}}\n" for i in range(250))
    + "topology:\n"
    + "".join(f"  k{i}: [{''.join(f'k{j}, ' for j in range(i + 1, min(i + 60, 250)))}language]\n" for i in range(250)),
    "unknown modules": WIDE + "topology:\n" + "".join(f"  k{i}: [" + "languaga, " * 70 + "]\n" for i in range(250)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", ["plan", "report"])
def test_a_text_that_is_made_to_be_slow_ends(name: str, command: str, tmp_path: Path) -> None:
    assert len(HOSTILE[name]) <= MAX_BYTES
    path = tmp_path / "hostile.yaml"
    path.write_text(HOSTILE[name])
    done, megabytes = run(command, path, *(["-o", tmp_path / "page.html"] if command == "report" else []))
    assert done.returncode in (0, 1)
    assert megabytes < 1024


# ---- work grows with the layout, not with its square


def test_the_work_of_a_report_grows_with_the_stages() -> None:
    """Calls of Python functions are counted, which any machine does alike; twice the stages take twice the calls."""

    def calls(stages: int) -> int:
        plan, found = compile_spec(parse_spec(staged_text(stages, 1))), Counter[str]()
        sys.setprofile(lambda _, event, __: found.update([event]))
        try:
            prediction = predicted(plan)
            assert prediction is not None
            render_page(content_of(plan, "a", prediction, prediction.timeline, ""))
            "".join(trace_text(prediction.timeline))
        finally:
            sys.setprofile(None)
        return found["call"]

    assert calls(160) < 2.2 * calls(80)
