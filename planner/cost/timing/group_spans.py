"""Which nodes a group spans, and with how many ranks in each: that decides which link carries its traffic.

Node n holds the ranks from n * gpus_per_node to (n + 1) * gpus_per_node - 1. If a group has several ranks in a node, a
ring over nodes enters by the network card of one of them and leaves by that of another. It then uses each card in one
direction only, and changes rails on its way to the next node. The share of the cards' bandwidth that it gets is a
constant of the hardware, ring_share. A single rank per node stays on its rail, and the ranks of a whole node have
enough rings to use every card in both directions. NVLink limits every group, because it carries the bytes inside the
nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from ...base.frozen import frozen
from ...layout.groups import Family
from ...layout.ir import GroupKind, ModulePlan
from ...plan import Plan

DEFAULT_PER_NODE = 8  # if the spec does not say
_MAX_LOOKED_AT = 64  # enough of a kind's groups: their pattern repeats from node to node


@frozen(order=True)
class Span:
    """The nodes that a group spans.

    Attributes:
        num_nodes: number of nodes with ranks of the group.
        size: number of ranks of the group.
        per_node: ranks of the group in the node that holds fewest of them.
        is_full: whether these are all ranks of that node.
    """

    num_nodes: int = 1
    size: int = 1
    per_node: int = 1
    is_full: bool = False

    @property
    def crosses(self) -> bool:
        """Whether the group's traffic crosses the network."""
        return self.num_nodes > 1

    def num_cards(self, ring_share: float) -> float:
        """Bandwidth that the group's rings have in and out of a node, in network cards."""
        return self.per_node * (1.0 if self.is_full or self.per_node == 1 else ring_share)


ALONE = Span()


def gpus_per_node(plan: Plan) -> int:
    """GPUs per node: what the spec says, or the default."""
    return plan.gpus_per_node or DEFAULT_PER_NODE


def span_of(ranks: Iterable[int], per_node: int) -> Span:
    """The span of a set of one or more ranks."""
    counts = Counter(rank // per_node for rank in ranks)
    fewest = min(counts.values())
    return Span(num_nodes=len(counts), size=sum(counts.values()), per_node=fewest, is_full=fewest == per_node)


def spans_of(plan: Plan, owner: str) -> dict[GroupKind, Span]:
    """For each kind of a module's groups, the costliest span: the most nodes, then the fewest ranks in one of them."""
    per_node = gpus_per_node(plan)
    spans: dict[object, Span] = {}  # kinds with the same sets of ranks, such as dp and dp_cp without cp, share one
    found = {}
    for family in plan.families_by_owner[owner]:
        sets = family.sets.translates() or family.kind
        if sets not in spans:
            spans[sets] = _costliest(family, per_node)
        found[family.kind] = spans[sets]
    return found


def _costliest(family: Family, per_node: int) -> Span:
    total = len(family)
    if (translates := family.sets.translates()) and not translates[0]:
        total = min(total, 1)  # groups of one rank are alike
    step = max(1, total // _MAX_LOOKED_AT)
    spans = {span_of(family.group(index).ranks, per_node) for index in range(0, total, step)}
    return max(spans, key=lambda span: (span.num_nodes, -span.per_node), default=ALONE)


def hops_cross(plan: Plan, module: ModulePlan) -> tuple[bool, ...]:
    """For each two neighbouring stages of a module, whether any rank's tensors leave the node on the way."""
    per_node = gpus_per_node(plan)
    pipelines = plan.groups(module.name, GroupKind.PP)
    step = max(1, len(pipelines) // _MAX_LOOKED_AT)
    looked_at = [pipelines[index] for index in range(0, len(pipelines), step)]
    nodes = ([rank // per_node for rank in ranks] for ranks in looked_at)
    return tuple(map(any, zip(*([a != b for a, b in pairwise(each)] for each in nodes), strict=True)))
