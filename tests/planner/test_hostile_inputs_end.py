"""Law: a command ends on any input, with an exit code and printable messages, within bounds of time and memory.

What is given is made from a seed by tests/hostile_inputs.py, in a process that the operating system ends if one input
takes thirty seconds or two GiB. Nothing here asserts a time.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.hostile_inputs import text_of

SEED = 1
FEW, MANY = 60, 4000


def given(first: int, count: int) -> None:
    command = [sys.executable, "-m", "tests.hostile_inputs", *map(str, (SEED, first, count))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    found = [line for line in lines if "code" in line]
    assert [line["number"] for line in found] == list(range(first, first + count))
    assert {line["code"] for line in found} <= {0, 1, 2}
    assert {line["kind"] for line in found} == {"built", "spec", "plan", "csv", "hardware"}
    assert any(line["code"] == 0 for line in found)


def test_a_few_inputs_end() -> None:
    given(0, FEW)


@pytest.mark.long
@pytest.mark.parametrize("first", range(FEW, FEW + MANY, 1000))
def test_thousands_of_inputs_end(first: int) -> None:
    given(first, 1000)


def test_an_input_is_made_again_from_its_number() -> None:
    assert [text_of(SEED, number) for number in range(20)] == [text_of(SEED, number) for number in range(20)]
    assert text_of(SEED, 1) != text_of(SEED + 1, 1)
