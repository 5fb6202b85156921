"""Which groups share a communicator. The rule is part of the plan; the executor opens exactly these.

Per set of ranks (all its members meet the same groups with that set in the same order, so all agree):
- groups of one rank need no communicator: nothing is ever sent. A rank's share one placeholder.
- groups with equal ranks share one when their kinds are in the same lane of traffic below. Two groups in one lane
  are never meant to run at the same time; on one communicator, operations run one after the other.
- kinds in no lane run between steps only (gradient norms, tied embeddings) and share with any; so do the kinds of
  experts in a module that has none, which carry nothing.
- a bridge's groups never share: its transfers are meant to overlap everything else.

So a set needs one communicator per lane that uses it (one if only kinds in no lane do), and one per bridge group.
Four ranks, tp 2, dp 2: tp and tp_cp of ranks 0 1 share one, with mp; dp and dp_cp of ranks 0 2 share another.

Counting for the whole plan lists no ranks: families are mostly translates of one box, so sets are counted by form
(the box's dims) and start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from .coords import Box, Digit
from .groups import Family
from .ir import Group, GroupKind, ModulePlan

# Kinds whose traffic is meant to overlap are in different lanes.
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
_EXPERT_KINDS = frozenset({GroupKind.EP, GroupKind.TP_EP, GroupKind.EXPT_TP, GroupKind.EXPT_DP})

Form = tuple[Digit, ...] | None  # dims of a box; None for a set of ranks that is no box


def communicators(groups: Sequence[Group], modules: Iterable[ModulePlan]) -> tuple[int, ...]:
    """Per group of one rank, in creation order: the creation position of the group that opens its communicator.

    Groups with equal numbers share; a number is the same on every member of the group.
    """
    without_experts = _without_experts(modules)
    found: list[int] = []
    opened: dict[tuple[int, ...], dict[int, str | None]] = {}  # per set of ranks: position -> lane of its traffic
    for group in groups:
        ranks = group.ranks
        if group.kind.is_bridge and len(ranks) > 1:
            found.append(group.position)
            continue
        stream = stream_of(group.owner, group.kind, without_experts) if len(ranks) > 1 else None
        known = opened.setdefault(ranks, {})
        chosen = next((position for position, used in known.items() if None in (stream, used) or stream == used), None)
        position = group.position if chosen is None else chosen
        known[position] = known.get(position) or stream
        found.append(position)
    return tuple(found)


def num_communicators(families: Iterable[Family], modules: Iterable[ModulePlan]) -> int:
    """Communicators of two or more ranks in the whole plan: those that all ranks together open."""
    without_experts = _without_experts(modules)
    total = 0
    users: dict[Form, dict[object, set[str | None]]] = {}  # per form: all starts of a family, or one set -> lanes
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
    """The lane of traffic of an owner's kind; None for one that may share with any."""
    return None if kind in _EXPERT_KINDS and owner in without_experts else STREAMS.get(kind)


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


def _without_experts(modules: Iterable[ModulePlan]) -> frozenset[str]:
    """Modules that cannot have experts: all but language, and language where its model says that it has none."""
    return frozenset(
        module.name
        for module in modules
        if not (module.is_language and (module.model is None or module.model.num_moe_experts is not None))
    )


def _num_connected(family: Family) -> int:
    """A bridge family's groups of two or more ranks. Where one box of the first has several, so have all."""
    if len(family) and any(box.dims for box in family.sets.boxes(0)):
        return len(family)
    return sum(len(group.ranks) > 1 for group in family)


def _count(users: dict[object, set[str | None]]) -> int:
    """Communicators of one form's sets, from the lanes that use each start, or each box of starts."""
    boxes = [(starts, streams) for starts, streams in users.items() if isinstance(starts, Box)]
    if len(boxes) == len(users) and _are_apart([starts for starts, _ in boxes]):
        return sum(len(starts) * _num_streams(streams) for starts, streams in boxes)
    by_start: dict[object, set[str | None]] = {}
    for key, streams in users.items():
        for start in key if isinstance(key, Box) else (key,):
            by_start.setdefault(start, set()).update(streams)
    return sum(map(_num_streams, by_start.values()))


def _are_apart(boxes: list[Box]) -> bool:
    """Whether the boxes, by their lowest and highest, do not overlap: as those of modules on ranks of their own."""
    ends = sorted((box[0], box[-1]) for box in boxes)
    return all(end < start for (_, end), (start, _) in pairwise(ends))


def _num_streams(streams: set[str | None]) -> int:
    return max(1, len(streams - {None}))
