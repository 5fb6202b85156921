"""Where a group's ranks are: how many of them share a node, and so which link carries its traffic.

Node n holds the ranks n * gpus_per_node and on. Where a group has several ranks in a node, a ring over nodes enters by
the network card of one of them and leaves by that of another: it uses its cards one way, and changes rails on its way
to the next node. What it has of its cards is a constant of the hardware, ring_share. A single rank per node stays on
its rail, and a whole node's ranks have rings enough to use every card both ways. No group is faster than NVLink carries
its bytes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import attrs

from ...layout.groups import Family
from ...layout.ir import GroupKind, ModulePlan
from ...plan import Plan

DEFAULT_PER_NODE = 8  # where the spec does not say
_MAX_LOOKED_AT = 64  # groups of a kind repeat their pattern from node to node


@attrs.frozen(order=True)
class Span:
    """A group: its size, the nodes it touches, the ranks in the node that holds fewest, and whether that is full."""

    num_nodes: int = 1
    size: int = 1
    per_node: int = 1
    is_full: bool = False

    @property
    def crosses(self) -> bool:
        return self.num_nodes > 1

    def num_cards(self, ring_share: float) -> float:
        """Network cards' worth of bandwidth that the group's rings have in a node."""
        return self.per_node * (1.0 if self.is_full or self.per_node == 1 else ring_share)


ALONE = Span()


def gpus_per_node(plan: Plan) -> int:
    """GPUs per node, by the spec or assumed."""
    return plan.gpus_per_node or DEFAULT_PER_NODE


def span_of(ranks: Iterable[int], per_node: int) -> Span:
    """The span of a set of ranks."""
    counts = Counter(rank // per_node for rank in ranks)
    fewest = min(counts.values())
    return Span(num_nodes=len(counts), size=sum(counts.values()), per_node=fewest, is_full=fewest == per_node)


def spans_of(plan: Plan, owner: str) -> dict[GroupKind, Span]:
    """Per kind of one owner's groups, the span that costs most: most nodes, then fewest ranks in one of them."""
    per_node = gpus_per_node(plan)
    return {family.kind: _worst(family, per_node) for family in plan.families_by_owner[owner]}


def _worst(family: Family, per_node: int) -> Span:
    total = len(family)
    step = max(1, total // _MAX_LOOKED_AT)
    spans = {span_of(family.group(index).ranks, per_node) for index in range(0, total, step)}
    return max(spans, key=lambda span: (span.num_nodes, -span.per_node), default=ALONE)


def hops_cross(plan: Plan, module: ModulePlan) -> tuple[bool, ...]:
    """Per two neighbouring stages, whether a transfer between them leaves its node, for any of the ranks looked at."""
    per_node = gpus_per_node(plan)
    pipelines = plan.groups(module.name, GroupKind.PP)
    step = max(1, len(pipelines) // _MAX_LOOKED_AT)
    looked_at = [pipelines[index] for index in range(0, len(pipelines), step)]
    nodes = ([rank // per_node for rank in ranks] for ranks in looked_at)
    return tuple(map(any, zip(*([a != b for a, b in pairwise(each)] for each in nodes), strict=True)))
