"""Law: the messages of a strategy carry every transfer, from ranks that have the samples to those that need them.

`planned` proves the messages of each plan by brute force (planner/verify/messages.py). Here elements are carried over.
"""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Cluster, Direction, Model, Plan, Strategy, Training
from planner.layout.strategy import SLICES_MIN_BYTES, choose
from tests.strategies import Case, cases, planned, simple

DP = st.integers(1, 4)
AXES = st.fixed_dictionaries({"tp": st.integers(1, 4), "cp": st.integers(1, 2), "dp": DP})
LANGUAGE = st.fixed_dictionaries({"tp": st.sampled_from([1, 2, 4]), "cp": st.integers(1, 2), "dp": DP})
WIDE = Model(family="gpt", num_layers=1, hidden_size=4096, num_attention_heads=32, vocab_size=128, max_positions=4096)


def across_nodes(images: dict[str, Any], language: dict[str, Any], micro_size: int = 12) -> Plan:
    """A plan with large transfers, and one rank per node."""
    spec = simple(micro_size, images=images, language=language)
    modules = {**spec.modules, "language": attrs.evolve(spec.modules["language"], model=WIDE)}
    return planned(attrs.evolve(spec, modules=modules, cluster=Cluster(gpus_per_node=1)))


def strategy_of(plan: Plan) -> Strategy:
    return plan.bridge("images", "language").strategy


@given(cases(min_modules=2))
def test_messages_of_any_plan_are_proven(case: Case) -> None:
    case.plan()


@given(AXES, LANGUAGE)
def test_sliced_transfers_of_any_layout_are_proven(images: dict[str, int], language: dict[str, int]) -> None:
    plan = across_nodes(images, language)
    many = all(sides["tp"] * sides["cp"] > 1 for sides in (images, language))
    assert strategy_of(plan) is (Strategy.SLICES if many else Strategy.LEADER)


@given(AXES, LANGUAGE, st.integers(0, 40), st.sampled_from(Direction))
def test_parts_cover_the_elements(images: dict[str, int], language: dict[str, int], total: int, way: Direction) -> None:
    """In parts that may be uneven, the ranks of a lane hold every element once, in order of rank."""
    plan = across_nodes(images, language)
    for transfer in plan.bridge("images", "language").transfers:
        for end in ("sender", "receiver"):
            held = []
            for rank in range(plan.world_size):
                traffic = plan.traffic("images", "language", rank, way)
                messages = traffic.sends if end == "sender" else traffic.receives
                held += [m.elements(total) for m in messages if m.transfer == transfer]
            assert [i for part in held for i in range(total)[part]] == list(range(total))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Strategy.SLICES),
        ({"crosses_nodes": False}, Strategy.LEADER),
        ({"num_senders": 1}, Strategy.LEADER),
        ({"num_receivers": 1}, Strategy.LEADER),
        ({"num_bytes": SLICES_MIN_BYTES - 1}, Strategy.LEADER),
        ({"num_bytes": None}, Strategy.LEADER),
        ({"shares_ranks": True}, Strategy.GATHER),
    ],
)
def test_the_written_rule(changes: dict[str, Any], expected: Strategy) -> None:
    known = {"num_senders": 4, "num_receivers": 2, "num_bytes": SLICES_MIN_BYTES}
    assert choose(**{"shares_ranks": False, "crosses_nodes": True, **known, **changes}) is expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda spec: spec, Strategy.SLICES),
        (lambda spec: attrs.evolve(spec, cluster=None), Strategy.LEADER),
        (lambda spec: attrs.evolve(spec, cluster=Cluster(gpus_per_node=64)), Strategy.LEADER),
        # 1 sample of 4096 tokens of 4096 hidden is 32 MiB in bf16; of 2 tokens, far less than the limit.
        (lambda spec: attrs.evolve(spec, batch=attrs.evolve(spec.batch, seq_length=2)), Strategy.LEADER),
        # 64 tokens of 4096 hidden, 6 samples: 3 MiB in bf16 and 6 in fp32; 32 tokens: 1.5 and 3.
        (lambda spec: attrs.evolve(spec, batch=attrs.evolve(spec.batch, seq_length=64)), Strategy.SLICES),
        (lambda spec: attrs.evolve(spec, batch=attrs.evolve(spec.batch, seq_length=32)), Strategy.LEADER),
        (
            lambda spec: attrs.evolve(
                spec, batch=attrs.evolve(spec.batch, seq_length=32), training=Training(dtype="fp32")
            ),
            Strategy.SLICES,
        ),
    ],
    ids=["large", "no cluster", "one node", "tiny", "3 MiB", "1.5 MiB", "twice in fp32"],
)
def test_the_rule_reads_the_spec(change: Any, expected: Strategy) -> None:
    spec = across_nodes({"tp": 2, "dp": 2}, {"tp": 2, "dp": 1}).to_spec()
    spec = attrs.evolve(spec, cluster=Cluster(gpus_per_node=1))
    assert strategy_of(planned(change(spec))) is expected
