"""Proves the messages of a bridge by brute force: they bring every rank what the strategy says.

It shares no arithmetic with layout/messages.py and layout/strategy.py: parts are fractions, and what must arrive is
written down for each rank from the lanes and transfers that brute_force.py dealt out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

from ..layout.ir import GroupKind, Message, ModulePlan, Strategy
from ..plan import Plan
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY

Part = tuple[Fraction, Fraction]  # the first and the last of a transfer's elements
Due = dict[tuple[int, tuple[int, ...]], list[Part]]  # by rank and transfer
_WHOLE = [(Fraction(0), Fraction(1))]


class SideFacts(Protocol):
    """One end of an edge: the boundary ranks and the leader of each lane."""

    @property
    def lanes(self) -> Mapping[int, tuple[int, ...]]: ...
    @property
    def leaders(self) -> Mapping[int, int]: ...


class EdgeFacts(Protocol):
    """An edge as brute_force.py sees it; its transfers have the fields of `Transfer`."""

    @property
    def src(self) -> str: ...
    @property
    def dst(self) -> str: ...
    @property
    def source(self) -> SideFacts: ...
    @property
    def destination(self) -> SideFacts: ...
    @property
    def transfers(self) -> Sequence[Any]: ...
    @property
    def shares_ranks(self) -> bool: ...


def expected_strategy(plan: Plan, edge: EdgeFacts) -> Strategy:
    """Slices, if a transfer of 2 MiB or more leaves its node and both sides have two or more ranks per lane."""
    if edge.shares_ranks:
        return Strategy.GATHER
    per_node, source = plan.gpus_per_node, plan.module(edge.src)
    model = plan.module(edge.dst if edge.dst == MIMO_LANGUAGE_MODULE_KEY else edge.src).model
    if per_node is None or model is None or not model.hidden_size:
        return Strategy.LEADER
    ends = [
        (edge.source.lanes[transfer.src_lane], edge.destination.lanes[transfer.dst_lane]) for transfer in edge.transfers
    ]
    crosses = any(len({rank // per_node for side in pair for rank in side}) > 1 for pair in ends)
    many = all(len(ranks) > 1 for pair in ends for ranks in pair)
    samples = max(transfer.num_samples for transfer in edge.transfers)
    elements = samples * _tokens(source, plan.batch_sizes.seq_length) * model.hidden_size
    large = elements * (4 if plan.training.dtype == "fp32" else 2) >= 2 << 20
    return Strategy.SLICES if crosses and many and large else Strategy.LEADER


def _tokens(module: ModulePlan, seq_length: int) -> int:
    """Tokens that a sample brings over an edge: as written, else a token per patch, or per two frames."""
    model = module.model
    if module.output.tokens_per_sample is not None:
        return module.output.tokens_per_sample
    if model is not None and model.image_size is not None and model.patch_size is not None:
        return len(range(model.patch_size, model.image_size + 1, model.patch_size)) ** 2
    if model is not None and model.num_mel_bins is not None and model.max_positions is not None:
        return max(1, model.max_positions // 2)
    return seq_length


def message_facts(plan: Plan, edge: EdgeFacts, strategy: Strategy) -> Iterator[tuple[str, object, object]]:
    """(where, expected, got) for both directions."""
    ends = [("forward", edge.source, edge.destination), ("backward", edge.destination, edge.source)]
    ranks = sorted({rank for side in (edge.source, edge.destination) for lane in side.lanes.values() for rank in lane})
    for direction, givers, takers in ends:
        where = f"bridge {edge.src}->{edge.dst}, messages {direction}"
        traffic = {rank: plan.traffic(edge.src, edge.dst, rank, direction) for rank in ranks}
        strays = [m for rank in ranks for m in traffic[rank].sends if m.sender != rank]
        strays += [m for rank in ranks for m in traffic[rank].receives if m.receiver != rank]
        yield f"{where}: of another rank", [], strays
        sent = [message for rank in ranks for message in traffic[rank].sends]
        received = [message for rank in ranks for message in traffic[rank].receives]
        yield f"{where}: sent and received", Counter(sent), Counter(received)
        giving, taking = ("src_lane", "dst_lane") if direction == "forward" else ("dst_lane", "src_lane")
        due = _due(edge.transfers, takers, taking, strategy)
        yield f"{where}: parts received", due, _parts(received, "receiver")
        first = {(m.receiver, m.transfer): min(o.first for o in received if _ends(o) == _ends(m)) for m in received}
        led = {key: [m.first for m in received if m.leads and _ends(m) == key] for key in first}
        yield f"{where}: parts that bring the boundaries", {key: [part] for key, part in first.items()}, led
        if strategy is Strategy.GATHER:
            strange = [m for m in sent if not _is_near(m, givers.lanes[getattr(m.transfer, giving)])]
            yield f"{where}: not from a rank that holds the samples", [], strange
            groups = [set(ranks) for ranks in plan.groups(f"{edge.src}->{edge.dst}", GroupKind.BRIDGE_GATHER)]
            apart = [m for m in sent if m.sender != m.receiver and not any({m.sender, m.receiver} <= g for g in groups)]
            yield f"{where}: between ranks without a group", [], apart
        else:
            yield f"{where}: parts sent", _due(edge.transfers, givers, giving, strategy), _parts(sent, "sender")


def _due(transfers: Iterable[Any], side: SideFacts, lane: str, strategy: Strategy) -> Due:
    """For each rank of a side, and each transfer of its lane, the part that passes through the rank."""
    found: Due = {}
    for transfer in transfers:
        ranks = side.lanes[getattr(transfer, lane)]
        for place, rank in enumerate(ranks):
            if strategy is Strategy.SLICES:
                part = Fraction(place, len(ranks)), Fraction(place + 1, len(ranks))
                found[rank, tuple(transfer)] = [part]
            elif strategy is Strategy.GATHER or rank == side.leaders[getattr(transfer, lane)]:
                found[rank, tuple(transfer)] = _WHOLE
    return found


def _parts(messages: Iterable[Message], end: str) -> Due:
    """For each rank and transfer, the parts of its messages, adjoining ones joined. Parts that overlap stay apart."""
    found: Due = defaultdict(list)
    for m in messages:
        t = m.transfer
        transfer = (t.src_lane, t.dst_lane, t.src_rank, t.dst_rank, t.src_start, t.dst_start, t.num_samples)
        found[getattr(m, end), transfer].append((Fraction(m.first, m.of), Fraction(m.last, m.of)))
    return {key: _joined(parts) for key, parts in found.items()}


def _joined(parts: list[Part]) -> list[Part]:
    found: list[Part] = []
    for first, last in sorted(parts):
        if found and found[-1][1] == first:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


def _ends(message: Message) -> tuple[int, object]:
    return message.receiver, message.transfer


def _is_near(message: Message, holders: tuple[int, ...]) -> bool:
    """Whether the sender holds the samples, and is the receiver itself if the receiver holds them too."""
    return message.sender in holders and (message.receiver not in holders or message.sender == message.receiver)
