"""Traffic and time of the bridges: one microbatch over an edge in either direction, from the plan's messages.

A crossing has up to three steps, one after the other, whatever the strategy:

1. If the ranks of a sending lane share each sample over cp, they make it whole: activations are gathered, gradients
   summed.
2. The plan's messages move, those of different ranks at the same time. The messages of one rank over the same link
   follow one another.
3. The receiving lane shares out what has come: by a broadcast from the leader, or by a gather of what each rank
   received. With the gather strategy (modules on the same ranks) every rank has received all that it needs, and what it
   already had has not moved.

Lanes repeat in blocks (layout/bridges.py), and so does the way in which blocks lie on nodes. Only blocks that differ
are looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import gcd, lcm

from ...base.axes import Axis
from ...base.frozen import frozen
from ...layout.ir import Bridge, Direction, GroupKind, ModulePlan, Strategy, Transfer
from ...plan import Plan
from ..work.ops import CollectiveOp
from ..work.tokens import edge_bytes
from .group_spans import ALONE, Span, gpus_per_node, span_of, spans_of
from .timing import Rates, op_seconds


@frozen
class Load:
    """The messages that one rank sends, or those that it receives.

    Attributes:
        over_nvlink, nvlink_bytes: number of the messages inside the node, and their bytes.
        over_network, network_bytes: number of the messages that leave the node, and their bytes.
    """

    over_nvlink: int = 0
    nvlink_bytes: float = 0.0
    over_network: int = 0
    network_bytes: float = 0.0

    @property
    def num_bytes(self) -> float:
        """Bytes of all the messages."""
        return self.nvlink_bytes + self.network_bytes


@frozen
class LaneStep:
    """A collective among the ranks of a lane, before the messages or after them."""

    op: CollectiveOp
    num_bytes: float
    span: Span


@frozen(kw_only=True)
class Crossing:
    """One microbatch over an edge in one direction, counted and not timed.

    Attributes:
        num_bytes: total bytes of all messages.
        network_bytes: total bytes of the messages that leave a node.
        rank_bytes: bytes that the busiest sender sends.
        loads: the distinct loads of senders and receivers.
        before, after: the distinct steps of lanes before and after the messages. Lanes take their steps at the same
            time.
    """

    num_bytes: float = 0.0
    network_bytes: float = 0.0
    rank_bytes: float = 0.0
    loads: frozenset[Load] = frozenset()
    before: frozenset[LaneStep] = frozenset()
    after: frozenset[LaneStep] = frozenset()


@frozen(kw_only=True)
class BridgeCost:
    """What one microbatch costs on an edge.

    Attributes:
        name: the edge, as `src->dst`.
        strategy: how the bytes move.
        forward, backward: what crosses the edge in each direction.
        forward_seconds, backward_seconds: how long each crossing takes.
    """

    name: str
    strategy: Strategy
    forward: Crossing
    backward: Crossing
    forward_seconds: float
    backward_seconds: float

    @property
    def ways(self) -> tuple[tuple[Direction, Crossing, float], ...]:
        """(direction, what crosses, seconds) of both directions."""
        return (
            (Direction.FORWARD, self.forward, self.forward_seconds),
            (Direction.BACKWARD, self.backward, self.backward_seconds),
        )


def crossing_of(plan: Plan, bridge: Bridge, direction: Direction) -> Crossing:
    """What crosses an edge in a direction; nothing if no model says how wide its tensor is."""
    source, destination = plan.module(bridge.src), plan.module(bridge.dst)
    sample = edge_bytes(plan, source, destination)
    if not sample:
        return Crossing()
    per_node = gpus_per_node(plan)
    sent: dict[int, Load] = defaultdict(Load)
    received: dict[int, Load] = defaultdict(Load)
    total = network = 0.0
    for transfer, weight in _distinct(bridge, per_node):
        for message in plan.messages(bridge.src, bridge.dst, transfer, direction):
            if message.sender == message.receiver:
                continue
            num_bytes = sample * transfer.num_samples * (message.last - message.first) / message.of
            crosses = message.sender // per_node != message.receiver // per_node
            total += weight * num_bytes
            network += weight * num_bytes * crosses
            sent[message.sender] = _with_message(sent[message.sender], num_bytes, crosses)
            received[message.receiver] = _with_message(received[message.receiver], num_bytes, crosses)
    ends = (source, destination) if direction is Direction.FORWARD else (destination, source)
    return Crossing(
        num_bytes=total,
        network_bytes=network,
        rank_bytes=max((load.num_bytes for load in sent.values()), default=0.0),
        loads=frozenset((*sent.values(), *received.values())),
        before=_steps_before(plan, ends[0], sample, direction),
        after=_steps_after(plan, bridge, ends[1], sample, direction),
    )


def num_distinct(bridge: Bridge, per_node: int) -> int:
    """The number of transfers of the blocks that differ."""
    num_blocks, period = _blocks(bridge, per_node)
    return len(bridge.transfers) // num_blocks * min(period, num_blocks)


def _distinct(bridge: Bridge, per_node: int) -> Iterator[tuple[Transfer, int]]:
    """The transfers of the blocks that differ, each with the number of equal blocks that it stands for."""
    num_blocks, period = _blocks(bridge, per_node)
    per_block = len(bridge.transfers) // num_blocks
    for block in range(min(period, num_blocks)):
        weight = len(range(block, num_blocks, period))
        for index in range(block * per_block, (block + 1) * per_block):
            yield bridge.transfers[index], weight


def _blocks(bridge: Bridge, per_node: int) -> tuple[int, int]:
    """(number of blocks of lanes, number of blocks after which they lie on nodes as before)."""
    sides = bridge.src_broadcast, bridge.dst_broadcast
    num_blocks = gcd(len(sides[0]), len(sides[1]))
    period = num_blocks
    if num_blocks > 1:
        firsts = [(side.sets.boxes(len(side) // num_blocks)[0], side.sets.boxes(0)[0]) for side in sides]
        shifts = [second.start - first.start for second, first in firsts]
        # Blocks that are a whole number of nodes apart on both sides are alike. If a rank can be at both ends, the two
        # sides must also advance by the same number of ranks: otherwise one block moves less than another.
        if bridge.strategy is not Strategy.GATHER or shifts[0] == shifts[1]:
            period = lcm(*(per_node // gcd(per_node, shift) for shift in shifts))
    return num_blocks, period


def _with_message(load: Load, num_bytes: float, crosses: bool) -> Load:
    """A load and one message more, which crosses the network or does not."""
    nvlink, network = (load.over_nvlink, load.nvlink_bytes), (load.over_network, load.network_bytes)
    if crosses:
        return Load(*nvlink, network[0] + 1, network[1] + num_bytes)
    return Load(nvlink[0] + 1, nvlink[1] + num_bytes, *network)


def _steps_before(plan: Plan, sender: ModulePlan, sample: float, direction: Direction) -> frozenset[LaneStep]:
    """What makes samples whole that the ranks of a sending lane share over cp."""
    if sender.grid.size_of(Axis.CP) == 1:
        return frozenset()
    span = spans_of(plan, sender.name).get(GroupKind.CP, ALONE)
    op = CollectiveOp.ALL_GATHER if direction is Direction.FORWARD else CollectiveOp.ALL_REDUCE
    return frozenset([LaneStep(op, sample * plan.batch.samples_per_lane[sender.name], span)])


def _steps_after(
    plan: Plan, bridge: Bridge, receiver: ModulePlan, sample: float, direction: Direction
) -> frozenset[LaneStep]:
    """What shares out the samples among the ranks of a receiving lane."""
    lanes = bridge.dst_broadcast if direction is Direction.FORWARD else bridge.src_broadcast
    if bridge.strategy is Strategy.GATHER or len(lanes[0]) == 1:
        return frozenset()
    op = CollectiveOp.BROADCAST if bridge.strategy is Strategy.LEADER else CollectiveOp.ALL_GATHER
    block, per_node = sample * plan.batch.samples_per_lane[receiver.name], gpus_per_node(plan)
    period = per_node // gcd(per_node, lanes[1][0] - lanes[0][0]) if len(lanes) > 1 else 1
    spans = {span_of(lanes[lane], per_node) for lane in range(min(period, len(lanes)))}
    return frozenset(LaneStep(op, block, span) for span in spans)


def crossing_seconds(crossing: Crossing, rates: Rates) -> float:
    """Seconds of a crossing: the slowest lane's step before, the busiest rank's messages, the slowest step after."""
    network = min(rates.network, rates.nvlink)

    def messages(load: Load) -> float:
        nvlink = load.over_nvlink * rates.latency + load.nvlink_bytes / rates.nvlink
        return max(nvlink, load.over_network * rates.latency + load.network_bytes / network)

    def lane(steps: frozenset[LaneStep]) -> float:
        return max((op_seconds(step.op, step.num_bytes, step.span, rates) for step in steps), default=0.0)

    return lane(crossing.before) + max(map(messages, crossing.loads), default=0.0) + lane(crossing.after)


def bridge_cost(bridge: Bridge, crossings: tuple[Crossing, Crossing], rates: Rates) -> BridgeCost:
    """The cost of an edge, from what crosses it (forward, backward)."""
    forward, backward = crossings
    return BridgeCost(
        name=bridge.name,
        strategy=bridge.strategy,
        forward=forward,
        backward=backward,
        forward_seconds=crossing_seconds(forward, rates),
        backward_seconds=crossing_seconds(backward, rates),
    )
