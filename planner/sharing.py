"""How many communicators a plan needs once groups of equal rank sets share one.

Two groups with the same ranks could run on one communicator, and a group of one rank needs none. Families are
mostly translates of one box, so distinct sets are counted by form (the box's dims) and start, not by listing
ranks. This counts equal sets; which kinds may share while they train is the executor's decision.
"""

from __future__ import annotations

from collections.abc import Iterable

from .coords import Box, Digit
from .groups import Family

Form = tuple[Digit, ...] | None  # dims of a box; None for a set of ranks that is no box


def num_communicators(families: Iterable[Family]) -> int:
    """Number of distinct sets of two or more ranks among all groups."""
    found: dict[Form, set[object]] = {}
    for family in families:
        for form, starts in rank_sets(family):
            if form != ():
                found.setdefault(form, set()).update(starts)
    return sum(len(starts) for starts in found.values())


def rank_sets(family: Family) -> Iterable[tuple[Form, Iterable[object]]]:
    """The family's sets as (form, starts); a set that is no box stands for itself, under the form None."""
    if translates := family.sets.translates():
        yield translates
        return
    for group in family:
        box = group.boxes[0] if len(group.boxes) == 1 else as_box(group.ranks)
        if box is None:
            yield None, (group.ranks,)
        else:
            yield box.dims, (box.start,)


def as_box(ranks: tuple[int, ...]) -> Box | None:
    """The box of ascending ranks, if they form one."""
    dims: list[Digit] = []
    size = 1
    while size < len(ranks):
        stride = ranks[size] - ranks[0]
        count = 1
        while (count + 1) * size <= len(ranks) and ranks[count * size] == ranks[0] + count * stride:
            count += 1
        if count == 1:
            return None
        dims.append((count, stride))
        size *= count
    box = Box.of(ranks[0], dims)
    return box if tuple(box) == ranks else None
