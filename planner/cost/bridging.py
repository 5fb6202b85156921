"""Traffic and time of the bridges: bytes per microbatch, by the plan's transfers."""

from __future__ import annotations

import attrs

from ..ir import Bridge, GroupKind, Strategy
from ..plan import Plan
from .links import gpus_per_node, spans_of
from .step import parameter_bytes
from .timing import Rates, collective_seconds
from .tokens import tokens_of
from .work import Collective


@attrs.frozen(kw_only=True)
class BridgeCost:
    """One edge, one microbatch, forward; backward is the same with the ends changed.

    Attributes:
        name: `src->dst`.
        num_bytes: of all transfers together.
        network_bytes: of them, what leaves a node.
        seconds: the busiest leader's transfers one after the other, then the broadcast in its lane.
    """

    name: str
    num_bytes: float
    network_bytes: float
    seconds: float


def bridge_cost(plan: Plan, bridge: Bridge, rates: Rates) -> BridgeCost:
    """The cost of an edge; nothing where its source has no model that says how much it hands on."""
    source, destination = plan.module(bridge.src), plan.module(bridge.dst)
    language = destination if destination.is_language else source
    width = language.model.hidden_size if language.model else 0
    sample = parameter_bytes(plan) * tokens_of(plan, source).handed_on * (width or 0)
    per_node = gpus_per_node(plan)
    total = network = 0.0
    busy: dict[tuple[str, int], float] = {}
    for transfer in bridge.transfers:
        num_bytes = sample * transfer.num_samples
        if transfer.src_rank == transfer.dst_rank:
            continue
        crosses = transfer.src_rank // per_node != transfer.dst_rank // per_node
        total += num_bytes
        network += num_bytes if crosses else 0.0
        seconds = num_bytes / (min(rates.network, rates.nvlink) if crosses else rates.nvlink) + rates.hop
        for end in (("send", transfer.src_rank), ("receive", transfer.dst_rank)):
            busy[end] = busy.get(end, 0.0) + seconds
    seconds = max(busy.values(), default=0.0)
    if bridge.strategy is not Strategy.GATHER:
        span = spans_of(plan, bridge.name)[GroupKind.BRIDGE_DST]
        block = sample * plan.batch.samples_per_lane[bridge.dst]
        seconds += collective_seconds(Collective.BROADCAST, block, span, rates)
    return BridgeCost(name=bridge.name, num_bytes=total, network_bytes=network, seconds=seconds)
