"""Which groups share a communicator. The rule is part of the plan; the executor opens exactly these.

The rule, for each set of ranks (its members meet the groups with that set in the same order, so they all agree):

- Groups of one rank need no communicator, because nothing is ever sent. All such groups of a rank share a placeholder.
- Groups with equal ranks share a communicator if their kinds belong to the same *stream* of traffic below. Operations
  on one communicator run one after the other, and two groups of one stream are never meant to run at the same time.
- Kinds in no stream run only between steps (gradient norms, tied embeddings) and share with any group. So do the kinds
  of experts in a module that has none, since they carry nothing.
- A bridge's groups never share: its transfers are meant to overlap everything else.

A set therefore needs one communicator per stream that uses it (one if only kinds in no stream do), and one per bridge
group. Four ranks, tp 2, dp 2: tp and tp_cp of ranks 0 1 share one, with mp; dp and dp_cp of ranks 0 2 share another.

Counting for the whole plan lists no ranks. Most families are translates of one box, so sets are counted by their form
(the dims of the box) and their start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from .coords import Box, Digit
from .groups import EXPERT_KINDS, Family
from .ir import Group, GroupKind, ModulePlan

# Kinds whose traffic is meant to overlap are in different streams.
STREAMS: dict[GroupKind, str] = {
    GroupKind.TP: "tensor",
    GroupKind.TP_CP: "tensor",
    GroupKind.CP: "context",  # ring attention runs beside the tensor-parallel products
    GroupKind.PP: "pipeline",
    GroupKind.DP: "gradients",
    GroupKind.DP_CP: "gradients",
    GroupKind.EP: "experts",  # dispatch of tokens overlaps the reduction of dense gradients
    GroupKind.TP_EP: "experts",
    GroupKind.EXPT_TP: "expert-tensor",
    GroupKind.EXPT_DP: "expert-gradients",
}

Form = tuple[Digit, ...] | None  # the dims of a box; None for a set of ranks that is not a box


def communicators(groups: Sequence[Group], modules: Iterable[ModulePlan]) -> tuple[int, ...]:
    """For each group of one rank, the creation index of the group that opens its communicator.

    Groups with equal numbers share. All members of a group get the same number.

    Args:
        groups: the rank's groups, in creation order.
        modules: the plan's modules.
    """
    without_experts = _without_experts(modules)
    found: list[int] = []
    opened: dict[tuple[Form, object], dict[int, str | None]] = {}  # per set of ranks: creation index -> stream
    for group in groups:
        form, start = rank_set(group)
        if group.kind.is_bridge and form != ():
            found.append(group.creation_index)
            continue
        stream = None if form == () else stream_of(group.owner, group.kind, without_experts)
        known = opened.setdefault((form, start), {})
        chosen = next((opener for opener, used in known.items() if None in (stream, used) or stream == used), None)
        opener = group.creation_index if chosen is None else chosen
        known[opener] = known.get(opener) or stream
        found.append(opener)
    return tuple(found)


def num_communicators(families: Iterable[Family], modules: Iterable[ModulePlan]) -> int:
    """Number of communicators of two or more ranks that all ranks of a plan open together."""
    without_experts = _without_experts(modules)
    total = 0
    users: dict[Form, dict[object, set[str | None]]] = {}  # per form: starts, or one set -> streams
    for family in families:
        if family.kind.is_bridge:
            total += _num_connected(family)
            continue
        stream = stream_of(family.owner, family.kind, without_experts)
        for form, starts in rank_sets(family):
            if form != ():
                for start in (starts,) if isinstance(starts, Box) else starts:
                    users.setdefault(form, {}).setdefault(start, set()).add(stream)
    return total + sum(map(_count, users.values()))


def stream_of(owner: str, kind: GroupKind, without_experts: frozenset[str]) -> str | None:
    """The stream of an owner's kind of groups; None if they may share with any group."""
    return None if kind in EXPERT_KINDS and owner in without_experts else STREAMS.get(kind)


def rank_sets(family: Family) -> Iterable[tuple[Form, Iterable[object]]]:
    """The family's sets as (form, starts). A set that is not a box is its own start, under the form None."""
    if translates := family.sets.translates():
        yield translates
        return
    for group in family:
        form, start = rank_set(group)
        yield form, (start,)


def rank_set(group: Group) -> tuple[Form, object]:
    """The set of a group as (form, start), equal for equal sets. One box is not listed."""
    box = group.boxes[0] if len(group.boxes) == 1 else as_box(group.ranks)
    return (None, group.ranks) if box is None else (box.dims, box.start)


def as_box(ranks: tuple[int, ...]) -> Box | None:
    """The box that ascending ranks form; None if they form none."""
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


def _without_experts(modules: Iterable[ModulePlan]) -> frozenset[str]:
    """Modules that have no experts: all but language, and language too if its model has none."""
    return frozenset(
        module.name
        for module in modules
        if not (module.is_language and (module.model is None or module.model.num_moe_experts is not None))
    )


def _num_connected(family: Family) -> int:
    """Number of a bridge family's groups with two or more ranks. If a box of the first has several, all groups do."""
    if len(family) and any(box.dims for box in family.sets.boxes(0)):
        return len(family)
    if family.sets.translates() is not None:  # all as large as the first
        return 0
    return sum(len(group.ranks) > 1 for group in family)


def _count(users: dict[object, set[str | None]]) -> int:
    """Number of communicators of one form's sets, from the streams that use each start, or each box of starts."""
    boxes = [(starts, streams) for starts, streams in users.items() if isinstance(starts, Box)]
    if len(boxes) == len(users) and _are_apart([starts for starts, _ in boxes]):
        return sum(len(starts) * _num_streams(streams) for starts, streams in boxes)
    by_start: dict[object, set[str | None]] = {}
    for key, streams in users.items():
        for start in key if isinstance(key, Box) else (key,):
            by_start.setdefault(start, set()).update(streams)
    return sum(map(_num_streams, by_start.values()))


def _are_apart(boxes: list[Box]) -> bool:
    """Whether the ranges from lowest to highest rank are disjoint, as those of modules on ranks of their own are."""
    ends = sorted((box[0], box[-1]) for box in boxes)
    return all(end < start for (_, end), (start, _) in pairwise(ends))


def _num_streams(streams: set[str | None]) -> int:
    return max(1, len(streams - {None}))
