"""Law: drawn layouts train like their reference on one rank. A few are drawn, and many with --long."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, assume, given, settings

from planner import Plan
from planner.limits.layers import Layers
from planner.limits.limits import limits_of
from planner.limits.target import Target
from tests.executor.jobs import specs
from tests.executor.jobs.parity import measure

MAX_RANKS = 8
ORDERS = ("tp-cp-dp-pp", "tp-cp-pp-dp", "dp-cp-tp-pp")


@st.composite
def axes(draw: st.DrawFn, *, max_pp: int) -> dict[str, Any]:
    tp, dp, pp = (draw(st.sampled_from(sizes)) for sizes in ((1, 2, 4), (1, 2, 4), (1, 2, 4)[:max_pp]))
    return {"tp": tp, "dp": dp, "pp": pp, "order": draw(st.sampled_from(ORDERS))}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    colocated = draw(st.booleans())
    deepest = 1 if colocated else 2
    language, images = draw(axes(max_pp=deepest)), draw(axes(max_pp=deepest))
    sizes = [parallel["tp"] * parallel["dp"] * parallel["pp"] for parallel in (language, images)]
    assume(sizes[0] == sizes[1] <= MAX_RANKS if colocated else sum(sizes) <= MAX_RANKS)
    language["sequence_parallel"] = draw(st.booleans())
    tied = specs.language(untie_embeddings_and_output_weights=draw(st.booleans()))
    plan = specs.plan(
        language,
        images,
        fixed=draw(st.booleans()),
        placement="colocated" if colocated else None,
        models={"language": tied},
    )
    assume(not limits_of(plan, Target(layers=Layers.LOCAL)))
    return plan


def draw_and_train(num_examples: int) -> None:
    @settings(
        max_examples=num_examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(plans())
    def trains(plan: Plan) -> None:
        measure(plan, steps=2, check_every=1).check()  # and the checks raise no false alarm

    trains()


def test_drawn_layouts_train_as_one_rank() -> None:
    draw_and_train(6)


@pytest.mark.long
def test_many_drawn_layouts_train_as_one_rank() -> None:
    draw_and_train(60)
