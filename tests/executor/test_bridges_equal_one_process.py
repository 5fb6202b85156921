"""Law: on real ranks, a bridge gives the values and gradients that one process computes alone.

It does for any tp, cp and dp at either end, for both forms of tensors, for any number of tokens per sample (also none),
and with all three strategies; and every rank sends the bytes that the plan says. Many layouts share one start of eight
ranks.
"""

from __future__ import annotations

from math import lcm
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner import Batch, Cluster, Model, Module, Output, Parallel, Plan, Spec, Strategy, compile_spec
from tests.executor.jobs import ranks

WORLD = 8
PER_RUN = 12
ORDERS = ("tp-cp-dp-pp", "dp-tp-cp-pp", "cp-dp-pp-tp", "tp-pp-cp-dp")


@st.composite
def sides(draw: st.DrawFn, most: int) -> dict[str, Any]:
    """Axes of a module of at most `most` ranks."""
    found: dict[str, Any] = {}
    for axis in draw(st.permutations(("tp", "cp", "dp", "pp"))):
        found[axis] = draw(st.integers(1, min(most, 2 if axis == "pp" else 4)))
        most //= found[axis]
    return found | {"order": draw(st.sampled_from(ORDERS))}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Two modules, apart or on shared ranks; sliced if each rank is a node of its own and samples are long."""
    shared, sliced = draw(st.booleans()), draw(st.booleans())
    if shared:
        one, other = (draw(sides(WORLD - 2)) | {"pp": 1} for _ in range(2))
        length = min(_size(one), _size(other))
        one["rank_offset"] = 0
        other["rank_offset"] = draw(st.integers(0, min(length - 1, WORLD - _size(other))))
    else:
        one = draw(sides(WORLD - 1))
        other = draw(sides(WORLD - _size(one)))
    form = draw(st.sampled_from([(2, None), (3, 0), (3, 1)]))
    parts = 2 * one["cp"] if one["cp"] > 1 else 1  # the planner asks for such a number of tokens
    tokens = draw(st.one_of(st.none(), st.integers(1, 3).map(lambda times: times * parts)))
    return layout(one, other, Output(tensor_dims=form[0], batch_dim=form[1], tokens_per_sample=tokens), sliced=sliced)


def _size(axes: dict[str, Any]) -> int:
    return axes["tp"] * axes["cp"] * axes["dp"] * axes["pp"]


def layout(images: dict[str, Any], language: dict[str, Any], output: Output, *, sliced: bool = False) -> Plan:
    """The plan of images and language. If `sliced`, the strategy is slices, for lanes of several ranks."""
    language = language | {"dp": language.get("dp", 1)}
    micro_size = lcm(images.get("dp", 1), language["dp"])
    length = 3 * 2**20 if sliced else 96  # a sample of so many tokens is over the limit of the rule
    model = Model(
        family="gpt",
        num_layers=2,
        hidden_size=24,
        num_attention_heads=12,
        vocab_size=128,
        max_positions=length,
    )
    modules = {
        "images": Module(parallel=Parallel(**({"dp": 1} | images)), output=output, special_token_id=7),
        "language": Module(parallel=Parallel(**language), model=model if sliced else None),
    }
    batch = Batch(global_size=micro_size, micro_size=micro_size, seq_length=length)
    return compile_spec(Spec(batch=batch, modules=modules, cluster=Cluster(gpus_per_node=1)))


def check(cases: list[tuple[Plan, int]], *, has_backward_groups: bool = False) -> None:
    texts = [(plan.to_json(), seed) for plan, seed in cases]
    results = ranks.run(WORLD, "bridge_jobs:parity", texts, has_backward_groups, timeout=240)
    for index, (plan, seed) in enumerate(cases):
        found = {rank: result[index] for rank, result in enumerate(results) if result[index]}
        assert not found, (plan.modules, seed, found)


def draw_and_check(num_runs: int) -> None:
    @settings(
        max_examples=num_runs, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True, database=None
    )
    @given(st.lists(st.tuples(plans(), st.integers(0, 999)), min_size=PER_RUN, max_size=PER_RUN))
    def carries(cases: list[tuple[Plan, int]]) -> None:
        check(cases)

    carries()


def test_drawn_layouts() -> None:
    draw_and_check(3)


@pytest.mark.long
def test_many_drawn_layouts() -> None:
    draw_and_check(40)


FLAT = Output(tensor_dims=2)
CASES = {
    "three to two": layout({"dp": 3}, {"dp": 2}, FLAT),
    "two to three, tp": layout({"dp": 2}, {"dp": 3, "tp": 2}, FLAT),
    "slices, 2 ranks to 3": layout({"tp": 2, "dp": 1}, {"tp": 3}, FLAT, sliced=True),
    "slices, 4 ranks to 2, fan-in": layout({"tp": 2, "dp": 2}, {"tp": 2, "cp": 2}, FLAT, sliced=True),
    "slices, fan-out": layout({"tp": 4}, {"tp": 2, "dp": 2}, FLAT, sliced=True),
    "slices of fixed shapes": layout(
        {"tp": 2, "dp": 2}, {"tp": 3}, Output(tensor_dims=2, tokens_per_sample=2**16), sliced=True
    ),
    "slices of a cut sequence": layout({"tp": 2, "cp": 2}, {"tp": 2, "cp": 2}, FLAT, sliced=True),
    "cp on both sides": layout({"cp": 2, "dp": 2}, {"cp": 2, "dp": 1, "tp": 2}, FLAT),
    "cp, fixed tokens": layout({"cp": 2, "dp": 2}, {"cp": 4}, Output(tensor_dims=2, tokens_per_sample=8)),
    "batch first": layout({"dp": 3}, {"dp": 2}, Output(tensor_dims=3, batch_dim=0)),
    "batch second": layout({"dp": 3, "tp": 2}, {"dp": 2}, Output(tensor_dims=3, batch_dim=1)),
    "shared, not dividing": layout({"dp": 3, "rank_offset": 0}, {"dp": 2, "rank_offset": 0}, FLAT),
    "shared, cp on both sides": layout(
        {"cp": 2, "dp": 2, "rank_offset": 0}, {"cp": 4, "rank_offset": 0}, Output(tensor_dims=2, tokens_per_sample=4)
    ),
    "shared in part": layout({"dp": 4, "rank_offset": 0}, {"tp": 2, "dp": 2, "rank_offset": 2}, FLAT),
    "shared, the same lanes": layout({"tp": 2, "dp": 2, "rank_offset": 0}, {"tp": 2, "dp": 2, "rank_offset": 0}, FLAT),
}


@pytest.mark.parametrize("has_backward_groups", [False, True], ids=["gloo", "as with NCCL"])
def test_chosen_layouts(has_backward_groups: bool) -> None:
    check([(plan, seed) for seed, plan in enumerate(CASES.values())], has_backward_groups=has_backward_groups)


def test_a_tensor_whose_batch_is_in_another_dim_is_refused() -> None:
    """TransformerBlock hands on (tokens, samples, hidden): as many rows, but with samples mixed."""
    plan = layout({"dp": 1}, {"dp": 1, "tp": 2}, Output(tensor_dims=3, batch_dim=0, tokens_per_sample=3))
    said = ranks.run(1, "bridge_jobs:transposed", plan.to_json())[0]
    assert "a lane has 1 samples, along dim 0 of its tensor, got shape (3, 1, 6)" in said


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("slices")])
def test_slices_are_what_these_layouts_use(name: str) -> None:
    assert CASES[name].bridge("images", "language").strategy is Strategy.SLICES
