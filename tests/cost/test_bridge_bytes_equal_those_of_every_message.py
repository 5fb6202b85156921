"""Law: the bytes that cross an edge, counted by blocks of lanes, are those of every message of every rank."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Batch, Cluster, Direction, Model, Module, Output, Parallel, Plan, Spec, compile_spec
from planner.cost.timing.bridges import Load, bridge_cost, crossing_of, crossing_seconds
from planner.cost.timing.hardware import load_hardware
from planner.cost.timing.timing import rates_of
from planner.layout.ir import Strategy
from planner.testing import PlanOf
from tests import EXAMPLES

RATES = rates_of(load_hardware("h100"))
GPT = Model(
    family="gpt", num_layers=4, hidden_size=256, num_attention_heads=4, vocab_size=1024, max_positions=65_536
)  # fmt: skip
VIT = Model(family="vit", num_layers=2, hidden_size=64, num_attention_heads=4, image_size=32, patch_size=8)
SIZES = st.sampled_from([1, 2, 4])
ORDERS = st.sampled_from(["tp-cp-dp-pp", "tp-cp-pp-dp", "dp-tp-cp-pp"])


def bridged(images: Parallel, language: Parallel, per_node: int, placement: str = "disjoint", tokens: int = 16) -> Plan:
    spec = Spec(
        cluster=Cluster(gpus_per_node=per_node),
        batch=Batch(global_size=48, micro_size=24, seq_length=65_536),
        placement=placement,
        modules={
            "images": Module(parallel=images, model=VIT, output=Output(tensor_dims=2, tokens_per_sample=tokens)),
            "language": Module(parallel=language, model=GPT),
        },
    )
    return compile_spec(spec)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Two modules with any ratio of lanes, on nodes of several sizes, with tensors that are sliced or sent whole."""
    dps = st.sampled_from([1, 2, 3, 4, 6, 8])
    if draw(st.booleans()):
        images = Parallel(tp=draw(SIZES), dp=draw(dps), pp=draw(st.sampled_from([1, 2])), order=draw(ORDERS))
        language = Parallel(
            tp=draw(SIZES), cp=draw(st.sampled_from([1, 2])), dp=draw(dps), pp=draw(SIZES), order=draw(ORDERS)
        )
        tokens = draw(st.sampled_from([16, 16 * 4096]))
        return bridged(images, language, draw(st.sampled_from([2, 3, 4, 8])), tokens=tokens)
    world = draw(st.sampled_from([4, 8, 24]))
    sizes = [size for size in (1, 2, 4) if world % size == 0]
    tps = draw(st.sampled_from(sizes)), draw(st.sampled_from(sizes))
    images, language = (Parallel(tp=tp, dp=world // tp, order=draw(ORDERS)) for tp in tps)
    return bridged(images, language, draw(st.sampled_from([2, 4, 8])), "colocated")


@given(plan=plans(), direction=st.sampled_from(Direction))
def test_bytes_equal_every_message_of_every_rank(plan: Plan, direction: Direction) -> None:
    (bridge,) = plan.bridges
    found = crossing_of(plan, bridge, direction)
    per_node, sample = plan.gpus_per_node or 8, 2 * 256 * (plan.module("images").output.tokens_per_sample or 0)
    total = network = 0.0
    loads: set[Load] = set()
    sent: Counter[int] = Counter()
    for rank in range(plan.world_size):
        traffic = plan.traffic("images", "language", rank, direction)
        for messages, is_sender in ((traffic.sends, True), (traffic.receives, False)):
            load = Load()
            for message in messages:
                if message.sender == message.receiver:
                    continue
                size = sample * message.transfer.num_samples * (message.last - message.first) / message.of
                crosses = message.sender // per_node != message.receiver // per_node
                if crosses:
                    load = Load(*attrs.astuple(load)[:2], load.over_network + 1, load.network_bytes + size)
                else:
                    load = Load(load.over_nvlink + 1, load.nvlink_bytes + size, *attrs.astuple(load)[2:])
                if is_sender:
                    total, network = total + size, network + size * crosses
                    sent[rank] += size  # type: ignore[assignment]  # counts bytes
            if load.num_bytes:
                loads.add(load)
    assert found.num_bytes == pytest.approx(total)
    assert found.network_bytes == pytest.approx(network)
    assert found.rank_bytes == pytest.approx(max(sent.values(), default=0))
    assert {rounded(load) for load in found.loads} == {rounded(load) for load in loads}


def rounded(load: Load) -> tuple[float, ...]:
    return tuple(round(value, 3) for value in attrs.astuple(load))


def test_a_leader_takes_its_transfers_and_tells_its_lane(plan_of: PlanOf) -> None:
    """LLaVA: two lanes send two samples each to one leader, which passes all four on to the other rank of its lane."""
    plan = plan_of(EXAMPLES / "llava_8gpu.yaml")
    (bridge,) = plan.bridges
    assert bridge.strategy is Strategy.LEADER
    sample = 2 * 576 * 4096
    forward, backward = (crossing_of(plan, bridge, way) for way in Direction)
    assert forward.num_bytes == backward.num_bytes == 4 * sample
    messages = 2 * (2 * sample / RATES.nvlink + RATES.latency)
    assert crossing_seconds(forward, RATES) == pytest.approx(messages + 4 * sample / RATES.nvlink + RATES.latency)
    assert crossing_seconds(backward, RATES) == pytest.approx(messages + 2 * sample / RATES.nvlink + RATES.latency)


def test_slices_use_all_cards_and_then_gather() -> None:
    """Four ranks send to four on another node: each a quarter over its own card, then three quarters over NVLink."""
    plan = bridged(Parallel(tp=4, dp=1), Parallel(tp=4, dp=1), 4, tokens=4096)
    (bridge,) = plan.bridges
    assert bridge.strategy is Strategy.SLICES
    total = 24 * 4096 * 256 * 2
    seconds = total / 4 / RATES.network + RATES.latency + 3 / 4 * total / RATES.nvlink + 3 * RATES.latency
    for way in Direction:
        assert crossing_seconds(crossing_of(plan, bridge, way), RATES) == pytest.approx(seconds)


def test_what_ranks_have_themselves_is_free() -> None:
    plan = bridged(Parallel(tp=2, dp=2), Parallel(tp=2, dp=2), 8, "colocated")
    (bridge,) = plan.bridges
    cost = bridge_cost(bridge, (crossing_of(plan, bridge, Direction.FORWARD),) * 2, RATES)
    assert (cost.forward.num_bytes, cost.forward_seconds) == (0, 0)


def test_sequences_that_several_ranks_share_are_made_whole_first() -> None:
    """With cp, gradients are summed at the destination before they leave. Activations need no such step."""
    whole = bridged(Parallel(dp=1), Parallel(dp=1), 8)
    shared = bridged(Parallel(dp=1), Parallel(cp=2, dp=1), 8)
    forward, backward = ([crossing_of(plan, plan.bridges[0], way) for plan in (whole, shared)] for way in Direction)
    assert not any(crossing.before for crossing in forward)
    assert [len(crossing.before) for crossing in backward] == [0, 1]
    assert crossing_seconds(backward[1], RATES) > crossing_seconds(backward[0], RATES)


def test_blocks_of_a_large_world_are_counted_once() -> None:
    """4,096 lanes of four ranks feed 1,024 of eight, and no more messages are looked at than on a few nodes."""
    output = Output(tensor_dims=2, tokens_per_sample=16)
    language = attrs.evolve(GPT, num_attention_heads=8)
    spec = Spec(
        cluster=Cluster(gpus_per_node=8),
        batch=Batch(global_size=8192, micro_size=4096, seq_length=64),
        modules={
            "images": Module(parallel=Parallel(tp=4, dp=4096), model=VIT, output=output),
            "language": Module(parallel=Parallel(tp=8, dp=1024, pp=2), model=language),
        },
    )
    plan = compile_spec(spec)
    found = crossing_of(plan, plan.bridges[0], Direction.FORWARD)
    assert found.num_bytes == 4096 * 16 * 256 * 2
