"""Law: runs of consecutive integers, and their text, cover the numbers that they stand for, and no others."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.base.runs import runs, runs_text


@given(st.sets(st.integers(0, 40)))
def test_runs_cover_the_numbers_and_do_not_touch(numbers: set[int]) -> None:
    found = runs(sorted(numbers))
    assert [number for first, last in found for number in range(first, last + 1)] == sorted(numbers)
    assert all(one[1] + 1 < other[0] for one, other in pairwise(found))


@given(st.sets(st.integers(0, 40)))
def test_the_text_says_the_numbers(numbers: set[int]) -> None:
    text = runs_text(sorted(numbers))
    said: list[int] = []
    for part in text.split(", ") if text else []:
        ends, _, step = part.partition(" by ")
        first, _, last = ends.partition("-")
        said += range(int(first), int(last or first) + 1, int(step or 1))
    assert said == sorted(numbers)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([5], "5"),
        ([0, 1, 2, 3, 8], "0-3, 8"),
        ([0, 2], "0, 2"),
        ([0, 7, 14], "0-14 by 7"),
        ([3, 4, 5], "3-5"),
    ],
)
def test_texts_by_hand(numbers: list[int], text: str) -> None:
    assert runs_text(numbers) == text
