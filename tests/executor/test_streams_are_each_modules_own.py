"""Law: every module, lane, stage and tp shard has a random stream of its own.

Streams are equal only for activations that are replicated.
"""

from __future__ import annotations

from collections import Counter

import pytest

from executor.model.seeds import Seeds
from planner import Axis, Plan
from tests.executor.jobs import ranks, specs

# Language on two tp ranks, images on the same two ranks as two lanes.
SHARED = specs.plan({"tp": 2}, {"dp": 2}, fixed=True, placement="colocated")


def shared(recompute: str) -> Plan:
    return specs.plan({"tp": 2}, {"dp": 2}, fixed=True, placement="colocated", recompute=recompute)


@pytest.mark.parametrize(
    "plan",
    [
        SHARED,
        specs.plan({"tp": 2, "pp": 2, "dp": 2}, {"tp": 2, "dp": 2}, fixed=True),
        specs.plan({"tp": 2, "cp": 2, "dp": 2, "order": "dp-tp-cp-pp"}, {"tp": 4, "dp": 2}, placement="colocated"),
    ],
    ids=["shared", "pipeline", "context"],
)
def test_seeds_are_equal_exactly_where_they_must(plan: Plan) -> None:
    """Hidden states of a lane and stage are replicated over tp. No other two draw from the same stream."""
    default, divided = {}, {}
    for rank in range(plan.world_size):
        view = plan.view(rank)
        for name, coords in view.coords.items():
            seeds = Seeds.of(view, name, 1, lanes_differ=True)
            assert seeds == Seeds.of(plan.view(rank), name, 1, lanes_differ=True)
            assert seeds != Seeds.of(view, name, 2, lanes_differ=True)
            place = (name, coords[Axis.PP], coords[Axis.DP], coords[Axis.CP])
            assert default.setdefault(place, seeds.default) == seeds.default
            divided[(*place, coords[Axis.TP])] = (seeds.tensor, seeds.expert)
    numbers = [*default.values(), *(seed for pair in divided.values() for seed in pair)]
    assert len(set(numbers)) == len(numbers)
    assert len(divided) == sum(module.grid.size for module in plan.modules)


def test_streams_of_weights_are_equal_on_replicas() -> None:
    plan = specs.plan({"tp": 2, "dp": 4, "ep": 2}, {"dp": 2}, models={"language": specs.language(num_moe_experts=4)})
    seeds = [Seeds.of(plan.view(rank), "language", 1, lanes_differ=False) for rank in range(8)]
    assert len({one.default for one in seeds}) == 1
    assert [one.tensor for one in seeds] == [seeds[rank % 2].tensor for rank in range(8)]
    assert len({one.expert for one in seeds}) == 2


def test_modules_that_share_a_rank_draw_from_streams_of_their_own() -> None:
    one, other = ranks.run(2, "rng_jobs:draws", SHARED.to_json(), 1)
    assert one["language"][0] == other["language"][0], "replicated over tp"
    assert one["language"][1] != other["language"][1], "divided over tp"
    assert one["images"][0] != other["images"][0], "two lanes"
    assert one["images"][1] != other["images"][1]
    numbers = [number for rank in (one, other) for pair in rank.values() for drawn in pair for number in drawn]
    assert len(set(numbers)) == len(numbers) - 8, "nothing repeats but the replicated draws"


def test_masks_of_a_training_step() -> None:
    """One tracker, seeded from the tp coord of one module, would serve all modules of a rank."""
    results = ranks.run(2, "rng_jobs:train_with_dropout", SHARED.to_json(), {})
    one, other = (result["masks"] for result in results)
    assert set(one) == {"language hidden", "language attention", "images hidden", "images attention"}
    assert one["language hidden"] == other["language hidden"]
    for kind in ("language attention", "images hidden", "images attention"):
        assert not set(one[kind]) & set(other[kind]), kind
    for masks in (one, other):
        assert all(count == 1 for kind in masks.values() for count in Counter(kind).values()), "a mask came twice"


def test_a_run_repeats_by_its_seed_and_the_other_modules_draws_change_nothing() -> None:
    text = specs.plan({"tp": 2}, {"dp": 2}, placement="colocated").to_json()  # tokens vary: some steps have none
    first, again, reseeded, without_images = (
        ranks.run(2, "rng_jobs:train_with_dropout", text, options)[0]
        for options in ({}, {}, {"seed": 2}, {"text_only": (0, 1)})
    )
    assert first == again
    assert not set(first["masks"]["language hidden"]) & set(reseeded["masks"]["language hidden"])
    assert "images hidden" in first["masks"]
    assert "images hidden" not in without_images["masks"]
    attention = [result["masks"]["language attention"] for result in (first, without_images)]
    assert attention[0] == attention[1], "language drew other masks because images drew none"


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputed_layers_draw_the_same_masks(recompute: str) -> None:
    """Recomputation runs outside the forward pass of the module, and might give gradients of another mask."""
    kept = ranks.run(2, "rng_jobs:train_with_dropout", shared("none").to_json(), {})
    recomputed = ranks.run(2, "rng_jobs:train_with_dropout", shared(recompute).to_json(), {})
    for want, got in zip(kept, recomputed, strict=True):
        assert got["steps"] == want["steps"]
        assert {kind: set(masks) for kind, masks in got["masks"].items()} == {
            kind: set(masks) for kind, masks in want["masks"].items()
        }
        assert set(Counter(got["masks"]["language attention"]).values()) == {2}
