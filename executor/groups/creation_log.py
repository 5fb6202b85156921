"""What a rank has created so far, told so that it can be compared with what the plan says the rank should create.

A plan that differs between ranks in order or members looks like a dead rank: members wait for one another in different
groups. So each rank notes every group that it is about to create, and publishes the notes beside its heartbeat. They
are read when something fails. Ranks are in different groups, so their notes cannot be compared with one another; but
anyone who has the plan can compute what each rank should have noted. Nothing is sent and nothing waits for that.

The notes are a rolling hash over the place in the plan's creation order, the kind and the members of every group, its
value after each of the last groups, and the last group in words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from planner import Group, GroupKind, Plan
from planner.base.runs import runs_text
from planner.layout.ir import RankView

_KEPT = 64  # groups whose place and hash are published: more than most ranks create, and about 2 kB
_DIGITS = 12


@attrs.frozen
class Creation:
    """One process group that a rank creates.

    Attributes:
        place: its place in the plan's creation order; no other group of the plan has it.
        group: the group that it is created for. Others may share it.
    """

    place: int
    group: Group

    def __str__(self) -> str:
        group = self.group
        ranks = runs_text(sorted(group.ranks))
        return f"{group.kind} group {group.index} of {group.owner} (ranks {ranks}) at place {self.place}"


def creations(
    plan: Plan, view: RankView, openers: tuple[int, ...] | None = None, *, backward: bool
) -> Iterator[Creation]:
    """What a rank creates, in order: the groups of several ranks that open a communicator, then those for gradients.

    Args:
        openers: `plan.communicators(view)`, from whoever has it.
        backward: whether a group that carries a pipeline's transfers has a second one for the gradients.
    """
    for group, opener in zip(view.groups, openers or plan.communicators(view), strict=True):
        if group.creation_index == opener and len(group.ranks) > 1:
            yield Creation(opener, group)
    if backward:
        for group in view.groups:
            if group.kind is GroupKind.BRIDGE_P2P:
                yield Creation(backward_place(plan, group), group)


def backward_place(plan: Plan, group: Group) -> int:
    """The place of a group's second communicator: after those of all groups of the plan."""
    return plan.num_groups + group.creation_index


class CreationLog:
    """The notes of one rank on the latest opening of a plan. May be read from another thread at any time."""

    def __init__(self) -> None:
        self.begin("")

    def begin(self, opening: str) -> None:
        """Forget what was noted, because a plan is about to be opened.

        Args:
            opening: what the names of its groups begin with; under other names, members would never meet.
        """
        self._noted: tuple[str, tuple[Creation, ...]] = opening, ()  # replaced as a whole, as it is read meanwhile

    def add(self, *creations: Creation) -> None:
        """Note groups that are about to be created: if members never meet, it is in one of them."""
        opening, before = self._noted
        self._noted = opening, (*before, *creations)

    def record(self) -> dict[str, Any]:
        """The notes as small JSON, which `explain` reads: what names begin with, the number of groups, the last one in
        words, and the rolling hash after each of the last groups."""
        opening, creations = self._noted
        digests = [""]
        for creation in creations:
            digests.append(_rolled(digests[-1], creation))
        last = str(creations[-1]) if creations else ""
        return {"opening": opening, "count": len(creations), "last": last, "digests": digests[1:][-_KEPT:]}


def explain(records: Mapping[int, Mapping[str, Any]], plan: Plan) -> str | None:
    """One sentence on the first rank whose groups are not the plan's; None if the groups of all ranks are.

    A rank that has created fewer groups than the plan gives it is on its way, and no difference.

    Args:
        records: what ranks have published, by rank; not every rank needs to have one.
        plan: the reader's plan.
    """
    for rank, record in sorted(records.items()):
        found = _difference(rank, record, plan)
        if found:
            return found
    return _openings(records)


def _difference(rank: int, record: Mapping[str, Any], plan: Plan) -> str | None:
    planned, count, digests = list(creations(plan, plan.view(rank), backward=True)), record["count"], record["digests"]
    digest, unpublished = "", count - len(digests)
    for number, creation in enumerate(planned[:count]):
        before, digest = digest, _rolled(digest, creation)
        if number >= unpublished and digests[number - unpublished] != digest:
            found = next((str(one) for one in planned if _rolled(before, one) == digests[number - unpublished]), None)
            instead = found or f"another one (its last was {record['last']})"
            perhaps = " or before it" if number == unpublished > 0 else ""
            return (
                f"rank {rank} creates other groups than the plan says: as group {number + 1} of its own{perhaps} "
                f"{instead}, instead of {creation}. Order or members differ between ranks, so that they never meet"
            )
    if count > len(planned):
        return f"rank {rank} creates {count} groups, and the plan gives it {len(planned)}: the last is {record['last']}"
    return None


def _openings(records: Mapping[int, Mapping[str, Any]]) -> str | None:
    """One sentence if ranks name their groups differently, so that members would never meet."""
    ranks_of: dict[str, list[int]] = {}
    for rank, record in sorted(records.items()):
        if record["opening"]:  # else it is about to open the plan
            ranks_of.setdefault(record["opening"], []).append(rank)
    if len(ranks_of) < 2:
        return None
    named = "; ".join(f"{opening} on ranks {runs_text(ranks)}" for opening, ranks in ranks_of.items())
    return f"ranks open the groups of a plan under different names, since some of them opened it more often: {named}"


def _rolled(digest: str, creation: Creation) -> str:
    group = creation.group
    noted = f"{digest} {creation.place} {group.owner} {group.kind} {group.index} {group.ranks}"
    return hashlib.sha256(noted.encode()).hexdigest()[:_DIGITS]
