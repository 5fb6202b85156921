"""Runs of consecutive integers: how ranks, nodes and stages are told in few words."""

from __future__ import annotations

from collections.abc import Iterable


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The first and the last number of each run of consecutive ones: 0 1 2 3 8 -> (0, 3), (8, 8).

    The numbers ascend.
    """
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def runs_text(numbers: Iterable[int]) -> str:
    """`0-3, 8` for ascending numbers, or `0-126 by 2` if they are evenly spaced."""
    if isinstance(numbers, range) and numbers.step == 1 and numbers:  # 16 million ranks, perhaps
        return f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
    each = list(numbers)
    if len(each) > 2:
        step = each[1] - each[0]
        if step > 1 and each == list(range(each[0], each[-1] + 1, step)):
            return f"{each[0]}-{each[-1]} by {step}"
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in runs(each))
