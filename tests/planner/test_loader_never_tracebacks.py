"""Law: any bytes as a spec give a Spec or a PlanError, in bounded time, and the message is safe to print.

A message is safe if every fault has a place, a known code, a rule and a remedy, and nothing of the input reaches the
terminal but printable characters (a key may hold `\\x1b[2J`, a newline, or an override of writing direction).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from planner import Plan, PlanError, compile_spec, load_spec, parse_spec
from planner.base.codes import CODES
from planner.spec.loader import MAX_BYTES
from tests import EXAMPLES
from tests.strategies import proven

SPECS = sorted(EXAMPLES.glob("*.yaml"))
TEXTS = [path.read_text() for path in SPECS]
FILE = "fuzz.yaml"

FEW = settings(max_examples=120, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=2500, suppress_health_check=list(HealthCheck))


def check_error(error: PlanError, num_lines: int, file: str = FILE) -> None:
    assert error.faults
    for fault in error.faults:
        assert CODES[fault.code.name] is fault.code
        assert not fault.is_warning
        assert fault.rule.strip()
        assert fault.remedy.strip()
        assert fault.mark is not None
        assert fault.mark.file == file
        assert 1 <= fault.mark.line <= num_lines
        assert fault.mark.column >= 1
    shown = str(error)
    assert "Traceback" not in shown
    assert ".py" not in shown
    lines = shown.split("\n")
    assert all(line.isprintable() for line in lines), [line for line in lines if not line.isprintable()]
    # A fault is two lines. No part of the input adds a line that looks like another fault.
    assert len(lines) == 2 * len(error.faults) + bool(error.num_left_out)


def outcome(text: str | bytes) -> Plan | PlanError:
    """What a text gives. Anything but a plan or a PlanError fails the test."""
    as_bytes = text.encode(errors="replace") if isinstance(text, str) else text
    num_lines = as_bytes.count(b"\n") + as_bytes.count(b"\r") + 4  # and what Unicode counts as line ends
    for other_end in ("\x85", "\u2028", "\u2029"):
        num_lines += text.count(other_end) if isinstance(text, str) else len(text)
    try:
        plan = compile_spec(parse_spec(text, FILE))
    except PlanError as error:
        check_error(error, num_lines)
        return error
    if plan.world_size <= 64 and plan.batch_sizes.micro_size <= 512 and len(plan.modules) <= 16:
        proven(plan)
    return plan


# ---- what is drawn

NASTY = [
    "", "~", "null", "true", "yes", "0", "-1", "1", "2", "7", "16777216", "16777217", "-16777217", "1.5", "1e3",
    "1e999", ".inf", "-.inf", ".nan", "0x10", "0b11", "010", "0o10", "1_000", "0x_", "1:30", "-1:30:00.5",
    "1" + ":59" * 300 + ".5", "9" * 400, "9" * 5000, "0x" + "f" * 5000, "2020-01-01", "2020-99-99T99:99:99Z", "=",
    "<<", "*a", "&a 1", "&a [*a]", "&a {<<: *a}", "&a {<<: [*a, *a]}", "{<<: {tp: 2}}", "{<<: 5}",
    "{? [a, b] : 1}",
    "{? {a: b} : 1}", "!!int abc", "!!int {a: 1}", "!!float x", "!!bool x", "!!null x", "!!str 5", "!!binary x",
    "!!set {a, b}", "!!map x", "!!seq x", "!!merge x", "!!timestamp x", "!!python/object/apply:os.system ['true']",
    "!!python/tuple [1]", "!<tag:%1b[31m> x", "!<%ff> x", "!foo x", "! x", "[]", "{}", "[1, 2]",
    "{tp: 1}", "[[[[[[]]]]]]",
    "'tp-cp-dp-pp'", "dp-pp-tp-cp", "language", "images", "[language]", "[language, language]", "colocated", "disjoint",
    "'a\x1b[31mb'", '"\\e[2J"', '"\\x07"', '"\\0"', '"\\u202e"', '"a\\nb"', '"a\\Lb"', '"\\ud800"', '"\\U0011ffff"',
    '"\\Uffffffff"', '"\\xzz"', "'",
    '"', "|", ">", "|9", "%", "@", "`", "- ", "? ", ": ", "---", "...", "#", "\t", "\u00e9",
    "\U0001f600", "a" * 300,
]  # fmt: skip
PIECES = [*NASTY, "\n", "\n  ", "\n    ", ": ", "- ", ", ", "{", "}", "[", "]", "&a ", "*a", "\x00", "\ufeff", "\r"]


@st.composite
def mutated_examples(draw: st.DrawFn) -> str:
    """The text of an example in which a few lines, values and characters were edited."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        lines = text.split("\n")
        at = draw(st.integers(0, len(lines) - 1))
        start, stop = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        match draw(st.integers(0, 7)):
            case 0:
                del lines[at]
            case 1:
                lines.insert(draw(st.integers(0, len(lines))), lines[at])
            case 2:
                lines[at] = " " * draw(st.integers(1, 4)) + lines[at]
            case 3:
                lines[at] = lines[at].removeprefix("  ")
            case 4 | 5:  # another value, with the key kept
                key, colon, _ = lines[at].rpartition(":")
                lines[at] = f"{key}{colon} {draw(st.sampled_from(NASTY))}"
            case 6:  # characters in the middle
                lines = [text[:start] + draw(st.sampled_from(PIECES)) + text[start:]]
            case _:
                lines = [text[:start] + text[min(stop, start + 8) :]]
        text = "\n".join(lines)
    return text


_WORDS = st.sampled_from(
    ["schema", "batch", "modules", "topology", "placement", "training", "cluster", "global_size", "micro_size",
    "seq_length", "language", "images", "parallel", "model", "output", "freeze", "stages", "tp", "cp", "pp",
    "dp", "ep", "expt_tp", "order", "rank_offset", "preset", "family", "encoder"]
)  # fmt: skip
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([0, 1, 2, 2**24, 10**30, "vicuna-7b", "gpt", "tp-cp-dp-pp", "language", "\x1b[31m", "a\nb"])
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4)
)
STRUCTURES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(_WORDS, inner, max_size=5)
        | st.dictionaries(st.integers() | st.booleans() | st.none() | st.text(max_size=5) | _WORDS, inner, max_size=3)
    ),
    max_leaves=20,
)


@st.composite
def grafted_examples(draw: st.DrawFn) -> Any:
    """The data of an example in which random structures replace some values."""
    data = yaml.safe_load(draw(st.sampled_from(TEXTS)))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = data
        while True:
            key = draw(st.sampled_from(list(place)))
            if not (isinstance(place[key], dict) and place[key] and draw(st.integers(0, 3))):
                break
            place = place[key]
        place[draw(_WORDS | st.just(key) | st.just(key))] = draw(STRUCTURES)
    return data


DUMPED = st.builds(
    lambda data, flow, unicode: yaml.safe_dump(data, sort_keys=False, default_flow_style=flow, allow_unicode=unicode),
    STRUCTURES | grafted_examples(),
    st.sampled_from([None, True, False]),
    st.booleans(),
)
ANY_TEXT = st.text(st.characters(), max_size=300) | st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
ANY_BYTES = st.binary(max_size=300) | st.builds(
    lambda text, encoding: text.encode(encoding, errors="replace"),
    ANY_TEXT | mutated_examples(),
    st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32", "latin-1"]),
)


# ---- the law


@FEW
@given(ANY_BYTES | ANY_TEXT)
@example("training: {lr: 1" + ":59" * 300 + ".5}")
@example('a: "\\U0011ffff"')
@example('a: "\\Uffffffff"')
@example("&a {<<: *a}")
@example("%YAML 1." + "9" * 5000 + "\n---\na: 1")
@example('"\\e[2J": 1')
@example('"a\\nb": 1')
@example('"\\ud800": 1')
def test_any_text_plans_or_fails(text: str | bytes) -> None:
    outcome(text)


@FEW
@given(mutated_examples())
def test_damaged_examples_plan_or_fail(text: str) -> None:
    outcome(text)


@FEW
@given(DUMPED)
def test_any_structure_plans_or_fails(text: str) -> None:
    outcome(text)


@pytest.mark.parametrize("value", NASTY)
def test_any_value_anywhere_plans_or_fails(value: str) -> None:
    """One after another, every value of a small spec is replaced by a nasty one, and so is its key."""
    spec = (
        "schema: §\ncluster: §\nbatch: {global_size: §, micro_size: §, seq_length: §}\nmodules:\n  language:\n"
        "    parallel: {tp: §, dp: §, order: §, sequence_parallel: §}\n    model: {preset: §}\n    output: §\n"
        "    freeze: §\n"
        "    stages: §\n  images: §\ntopology: {images: §}\nplacement: §\ntraining: {lr: §, dtype: §}\n"
    )
    fine = [
        "1", "{gpus_per_node: 8}", "8", "4", "64", "2", "1", "tp-cp-dp-pp", "false", "vicuna-7b", "{}", "true",
        "[32]", "{}", "[language]", "disjoint", "0.1", "bf16",
    ]  # fmt: skip
    parts = spec.split("§")
    assert len(parts) == len(fine) + 1
    assert isinstance(outcome("".join(map(str.__add__, parts, [*fine, ""]))), Plan)
    for at in range(len(fine)):
        values = [*fine[:at], value, *fine[at + 1 :], ""]
        outcome("".join(map(str.__add__, parts, values)))
    for key in ("schema", "language", "tp", "images", "lr"):
        outcome("".join(map(str.__add__, parts, [*fine, ""])).replace(f"{key}:", f"{value}:", 1))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_truncated_example_plans_or_fails(path: Path) -> None:
    text = path.read_bytes()
    for end in range(0, len(text), 23):
        outcome(text[:end])


def test_examples_plan() -> None:
    assert len(TEXTS) >= 8
    for text in TEXTS:
        assert isinstance(outcome(text), Plan)


# ---- documents that are made to be slow, each of about the greatest length


def _nine(anchor: str) -> str:
    return ", ".join([f"*{anchor}"] * 9)


def _next_ones(i: int) -> str:
    return "".join(f"k{j}, " for j in range(i + 1, min(i + 60, 250)))


QUICK = {
    "sequences": "[" * MAX_BYTES,
    "mappings": "{" * MAX_BYTES,
    "block sequences": "- " * (MAX_BYTES // 2),
    "complex keys": "? " * (MAX_BYTES // 2),
    "nested blocks": "\n".join(" " * depth + "a:" for depth in range(600)),
    "one word": "a" * MAX_BYTES,
    "spaces": " " * MAX_BYTES,
    "comments": "#\n" * (MAX_BYTES // 2),
    "quotes": "'" * MAX_BYTES,
    "colons": ":" * MAX_BYTES,
    "text of a line": "a: " + "b\n  " * (MAX_BYTES // 4 - 1),
    "digits": "a: 1." + "0" * (MAX_BYTES - 6),
    "almost a number": "a: " + "1" * 200_000 + "." + "1" * 50_000 + "x",
    "almost a time": "a: 1" + ":5" * 120_000 + "x",
    "a long key": "? " + "k" * 200_000 + "\n: 1",
    "laughs": "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    + "".join(f"{b}: &{b} [{_nine(a)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "merged laughs": "a: &a {x: 1}\n"
    + "".join(f"{b}: &{b} {{<<: [{_nine(a)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
}  # fmt: skip
SLOW = {
    "items": "a: [" + "1," * 130_000 + "]",
    "flow keys": "{" + "a," * 130_000 + "}",
    "complex flow keys": "{" + "? a," * 60_000 + "}",
    "keys": "".join(f"k{i}: 1\n" for i in range(25_000)),
    "anchors": "".join(f"k{i}: &k{i} 1\n" for i in range(15_000)),
    "a long time": "a: 1" + ":5" * 120_000,
    "merges": "a: &a {x: 1}\nb: {<<: [" + ", ".join(["*a"] * 40_000) + "]}",
    "a wide topology": "batch: {global_size: 1, micro_size: 1, seq_length: 8}\nmodules:\n  language: {}\n"
    + "".join(f"  k{i}: {{}}\n" for i in range(250))
    + "topology:\n"
    + "".join(f"  k{i}: [{_next_ones(i)}language]\n" for i in range(250)),
}  # fmt: skip


@pytest.mark.parametrize("text", QUICK.values(), ids=QUICK)
def test_a_bad_text_of_any_shape_is_refused_in_time(text: str) -> None:
    assert isinstance(outcome(text), PlanError)


@pytest.mark.long
@pytest.mark.parametrize("text", SLOW.values(), ids=SLOW)
def test_the_slowest_texts_end_in_time(text: str) -> None:
    assert len(text) <= MAX_BYTES
    outcome(text)


@pytest.mark.parametrize("before", ["? ", "modules: {language: {}, ? ", "modules: {language: {parallel: {tp: 1, ? "])
def test_a_message_is_short_however_long_the_key(before: str) -> None:
    error = outcome(f"{before}{'k' * 60_000}\n  : 1{'}' * before.count('{')}\n".replace("\n  : 1\n", "\n: 1\n"))
    assert isinstance(error, PlanError)
    assert len(str(error)) < 2000


@pytest.mark.parametrize("name", ["a\x1b[31m.yaml", "a\nb.yaml", "no\x00where.yaml", "\u202egnp.yaml"])
def test_a_strange_file_name_is_shown_escaped(name: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError) as caught:
        load_spec(tmp_path / name)
    assert all(line.isprintable() for line in str(caught.value).split("\n"))
    assert len(str(caught.value).split("\n")) == 2


# ---- the same at length


@pytest.mark.long
@MANY
@given(ANY_BYTES | ANY_TEXT)
def test_a_sweep_of_texts_plans_or_fails(text: str | bytes) -> None:
    outcome(text)


@pytest.mark.long
@MANY
@given(mutated_examples())
def test_a_sweep_of_damaged_examples_plans_or_fails(text: str) -> None:
    outcome(text)


@pytest.mark.long
@MANY
@given(DUMPED)
def test_a_sweep_of_structures_plans_or_fails(text: str) -> None:
    outcome(text)
