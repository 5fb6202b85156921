"""Law: a user's encoders may feed one another, apart or on shared ranks, and train like one rank that holds all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner import Batch, Module, Output, Parallel, Plan, Spec, compile_spec
from tests.executor.jobs import ranks, specs
from tests.executor.jobs.parity import assemble

CHAIN = {"images": ("audio",), "audio": ("language",)}
FORK = {"images": ("audio", "language"), "audio": ("language",)}


def layout(
    topology: dict[str, tuple[str, ...]],
    images: dict[str, Any],
    audio: dict[str, Any],
    language: dict[str, Any],
    *,
    tokens: int | None = None,
) -> Plan:
    """A plan of modules in this order. Images have `tokens` per sample, and a special token if they feed language.

    No spec says how many dims an output has: encoders hand on two, whatever they feed.
    """
    token = 7 if "language" in topology["images"] else None
    modules = {
        "images": Module(parallel=_of(images), output=Output(tokens_per_sample=tokens), special_token_id=token),
        "audio": Module(parallel=_of(audio), special_token_id=9),
        # The users' GPTModel counts the padding of a vocabulary: 256 words need none up to tp 2.
        "language": Module(parallel=_of(language), model=specs.language(vocab_size=256)),
    }
    return compile_spec(
        Spec(batch=Batch(global_size=8, micro_size=4, seq_length=32), modules=modules, topology=topology)
    )


def _of(axes: dict[str, Any]) -> Parallel:
    return Parallel(**({"dp": 1} | axes))


def at(offset: int, **axes: int) -> dict[str, int]:
    return {"rank_offset": offset} | axes


LAYOUTS = {
    "chain": layout(CHAIN, {"dp": 2}, {}, {"tp": 2}),
    "chain, fixed tokens": layout(CHAIN, {"dp": 2}, {}, {"tp": 2}, tokens=3),
    "chain, over cp": layout(CHAIN, {"cp": 2}, {"dp": 2}, {"pp": 2}),
    "chain, encoders share ranks": layout(CHAIN, at(0, dp=2), at(0, tp=2), at(2)),
    "chain, all share ranks": layout(CHAIN, at(0, dp=2), at(0, tp=2), at(0, tp=2)),
    "chain, the last shares ranks with language": layout(CHAIN, at(2, dp=2), at(0, dp=2), at(0, tp=2)),
    "fork": layout(FORK, {"dp": 2}, {}, {"tp": 2}),
    "fork, all share ranks": layout(FORK, at(0, dp=2), at(0, tp=2), at(0, tp=2)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_they_train_as_one_rank(name: str) -> None:
    """Losses, gradient norms and every gradient are the same."""
    plan = LAYOUTS[name]
    results = ranks.run(plan.world_size, "chain_jobs:train", plan.to_json(), {})
    alone = ranks.run(1, "chain_jobs:train", plan.to_json(), {"reference": True})
    for result in results:
        for found, wanted in zip(result["steps"], alone[0]["steps"], strict=True):
            assert found[:2] == pytest.approx(wanted[:2], rel=1e-6)
            assert found[2] == wanted[2] > 0
    gradients, expected = (assemble([result["parts"] for result in each]) for each in (results, alone))
    assert gradients.keys() == expected.keys()
    inner = [key for key in expected if "images" in key or "audio" in key]
    assert len(inner) == 5
    assert all(np.abs(expected[key]).max() > 0 for key in inner), "else nothing would be compared"
    gaps = {key: np.abs(gradients[key] - expected[key]).max() / np.abs(expected[key]).max() for key in expected}
    assert max(gaps.values()) <= 1e-6, max(gaps.items(), key=lambda pair: pair[1])


FAULTS = {
    "boundaries": ({"notes": False}, r"images, which has no special token: .* without their boundaries: set _mimo"),
    "nothing": ({"answers": False}, "images: without a special token an encoder hands on a tensor, .* got None"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_only_the_submodule_can_know_is_asked_for(name: str) -> None:
    """Images have no special token and any number of tokens, so that nothing else says whose rows are whose."""
    plan, (params, rule) = LAYOUTS["chain"], FAULTS[name]
    with pytest.raises(ranks.RankError, match=rule):
        ranks.run(plan.world_size, "chain_jobs:train", plan.to_json(), {"images": params})
