"""Law: a user's own loop, made of the library's functions, trains what Trainer trains, on real ranks."""

from __future__ import annotations

import math
import re
from typing import Any

import attrs
import numpy as np
import pytest

from planner import Freeze, FrozenMap, Parallel, Plan
from tests import ROOT
from tests.executor.jobs import ranks, specs
from tests.executor.jobs.parity import assemble

PAGE = (ROOT / "docs" / "library.md").read_text()
# The users' language model is GPTModel, whose loss counts the padding of a vocabulary: 256 words need none up to tp 2.
WORDS = {"language": specs.language(vocab_size=256)}
APART = specs.plan({"tp": 2, "pp": 2}, {"dp": 2}, fixed=True, models=WORDS)
TOGETHER = specs.plan({"tp": 2}, {"dp": 2}, fixed=True, placement="colocated", models=WORDS)
STAGED = specs.plan({"dp": 2}, {"tp": 1, "pp": 2}, fixed=True, models=WORDS)
LOOPS: dict[str, tuple[Plan, dict[str, Any]]] = {
    "apart": (APART, {}),
    "apart_overlapped": (APART, {"overlap": True}),
    "together": (TOGETHER, {}),
    "encoder_of_two_stages": (STAGED, {}),
    "varying_overlapped": (specs.plan({"dp": 2}, {"dp": 2}, models=WORDS), {"overlap": True}),
    "varying": (specs.plan({"dp": 2}, {}, freeze={"images": Freeze(encoder=True)}, models=WORDS), {}),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_of_ones_own_trains_like_the_trainer(name: str) -> None:
    """GPTModel with a user's specs and loop and the library's helpers; the plan, seed and data are Trainer's."""
    plan, options = LOOPS[name]
    results = ranks.run(plan.world_size, "provider_jobs:own_loop", plan.to_json(), options)
    wanted = ranks.run(plan.world_size, "jobs:train", plan.to_json(), {"lr": 0.1})
    for rank, result in enumerate(results):
        role = plan.role(rank)
        for found, trained in zip(result["steps"], wanted[rank]["steps"], strict=True):
            assert found[0] == pytest.approx(trained[0], rel=1e-6)
            assert found[1] == pytest.approx(trained[1], rel=1e-6)
            assert found[2] == trained[2] > 0
        assert result["called"] == ["second", "post"]
        assert result["created"] == 0, "Bridge HEAD creates every group three times; here once, before"
        assert result["same_infra"]
        assert result["reducing"] == ({False}, {True})
        assert result["untouched"]
        assert result["participating"] == [module.name for module in plan.modules if module.name in role.modules]
        assert set(result["absent"]) == {module.name for module in plan.modules} - set(role.modules)
        assert result["ndim"]["images"] == 2
        assert result["topology"] == {"language": [], "images": ["language"]}
        language = plan.module("language")
        assert result["sizes"] == (language.grid.sizes[0], language.num_stages, 1)
        assert result["in_grid"] == [rank in module.grid for module in plan.modules]
    found, trained = (assemble([result["parts"] for result in each]) for each in (results, wanted))
    assert found.keys() == trained.keys()
    assert max(np.abs(found[key] - trained[key]).max() for key in found) <= 1e-7


@pytest.mark.parametrize("plan", [APART, TOGETHER], ids=["apart", "together"])
def test_the_ready_providers_weights_are_filled(plan: Plan) -> None:
    """They are finite, those of Trainer, the same in any layout, and bit for bit on replicas, as assemble asserts."""
    results = ranks.run(plan.world_size, "provider_jobs:llava", plan.to_json())
    trainers = ranks.run(plan.world_size, "provider_jobs:trainer_starts_from", plan.to_json())
    whole = specs.plan({}, {}, fixed=True, placement="colocated", models=WORDS)
    alone = ranks.run(1, "provider_jobs:llava", whole.to_json())
    found, wanted, reference = (assemble([r["parts"] for r in each]) for each in (results, trainers, alone))
    assert found.keys() == wanted.keys() == reference.keys()
    for key, tensor in found.items():
        assert np.isfinite(tensor).all()
        assert np.array_equal(tensor, wanted[key])
        assert np.array_equal(tensor, reference[key]), key
    for rank, result in enumerate(results):
        assert result["same_wrapped"]
        assert result["wrapped"] == ["DistributedDataParallel"] * len(plan.role(rank).modules)


def test_a_users_own_weights_are_drawn_alike_on_replicas() -> None:
    """They are with either initialization. On the CPU tensors are drawn whole, so that tp does not change them."""
    divided = specs.plan({"tp": 2}, {"dp": 2}, fixed=True)
    models = {"language": specs.language(vocab_size=256)}
    whole = specs.plan({}, {"dp": 2}, fixed=True, models=models)
    results = [ranks.run(p.world_size, "provider_jobs:drawn_by_the_specs", p.to_json()) for p in (divided, whole)]
    drawn = {way: [assemble([r[way] for r in each]) for each in results] for way in ("device", "cpu")}
    for tensors in (*drawn["device"], *drawn["cpu"]):
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    inner = [
        key for key in drawn["cpu"][0] if "language_model.decoder" in key and "linear" in key and "norm" not in key
    ]
    assert inner
    on_cpu, wanted = drawn["cpu"]
    assert all(np.array_equal(on_cpu[key], wanted[key]) for key in inner)
    on_device, wanted = drawn["device"]
    assert [key for key in inner if np.array_equal(on_device[key], wanted[key])] == [], (
        "else the flag would change nothing"
    )


@pytest.mark.parametrize(
    "plan",
    [
        specs.plan({"tp": 2, "rank_offset": 0}, {"tp": 4, "rank_offset": 0}, fixed=True),
        specs.plan({"tp": 2}, {"dp": 2}, fixed=True, placement="colocated"),
        specs.plan({"dp": 2}, {"tp": 2}, fixed=True, placement="colocated"),
        specs.plan({"pp": 2}, {"dp": 2}, fixed=True),
    ],
    ids=["mixed", "language_tp", "images_tp", "stages"],
)
def test_modules_on_shared_ranks_draw_weights_by_their_own_coords(plan: Plan) -> None:
    """Without a broadcast, replicas are equal bit for bit, as assemble asserts, and no two parts of the model are."""
    results = ranks.run(plan.world_size, "provider_jobs:drawn_without_broadcast", plan.to_json())
    assemble(results)
    parts = {(key, str(place)): data for parts in results for key, _, place, data in parts}
    drawn = [np.sort(data.ravel()).tobytes() for data in parts.values() if np.unique(data).size > 1]
    assert drawn
    assert len(set(drawn)) == len(drawn)


def test_bridge_2879_frozen_parameters_are_on_the_device() -> None:
    """Megatron-Bridge #2879: frozen parameters stayed where they were made. `meta` stands for a GPU."""
    results = ranks.run(APART.world_size, "provider_jobs:devices", APART.to_json())
    for rank, result in enumerate(results):
        assert result["made"] == {"cpu"}
        assert result["all"] == {"meta"}
        assert (result["num_frozen"] > 0) == ("images" in APART.role(rank).modules)
        assert result["frozen"] <= {"meta"}


def test_a_spec_is_compiled_for_the_world() -> None:
    spec = specs.plan({}, {}, fixed=True).to_spec()
    parallel = {"language": Parallel(dp=1), "images": Parallel()}
    modules = {name: attrs.evolve(module, parallel=parallel[name]) for name, module in spec.modules.items()}
    spec = attrs.evolve(spec, modules=FrozenMap(modules))
    for result in ranks.run(3, "provider_jobs:spec_for_the_world", spec):
        assert (result["before"], result["world"], result["same"]) == (2, 3, True)


def test_modules_may_share_a_configuration() -> None:
    """Each module gets sizes of its own."""
    for rank, result in enumerate(ranks.run(APART.world_size, "provider_jobs:shared_config", APART.to_json())):
        assert (result["language"], result["stages"]) == (2, 2)
        assert result["projections"] == ([1] if "images" in APART.role(rank).modules else [])


def test_an_encoder_that_is_not_megatrons() -> None:
    """It has no configuration and is whole on every tp rank, and yet trains the same in any layout."""
    plans = [specs.plan({}, {"tp": 2}, fixed=True), specs.plan({"dp": 2}, {"dp": 2}, fixed=True)]
    divided, spread = (ranks.run(p.world_size, "provider_jobs:plain_encoder", p.to_json()) for p in plans)
    assert all(steps == divided[0] for steps in divided)
    for one, other in zip(divided[0], spread[0], strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_tied_embeddings_stay_tied_over_stages() -> None:
    plan = specs.plan({"pp": 2}, {}, fixed=True)
    first, last, _ = ranks.run(plan.world_size, "provider_jobs:tied", plan.to_json())
    assert first == last
    assert first[0] != first[1]


def test_the_ready_provider_builds_any_rank_without_storage() -> None:
    plan, chosen = APART, [0, 3, 5]
    (found,) = ranks.run(1, "provider_checks:parameters_on_meta", plan.to_json(), chosen)
    (wanted,) = ranks.run(1, "jobs:parameters_of_ranks", plan.to_json(), chosen)
    assert found == wanted


def test_dropout_on_shared_ranks_draws_from_each_modules_own_stream() -> None:
    """Language is on two tp ranks, and images are two lanes on the same ranks, by way of the user's specs."""
    arguments = ("provider_jobs:dropout", TOGETHER.to_json())
    first, again, reseeded = (ranks.run(2, *arguments, seed) for seed in (1, 1, 2))
    assert first == again
    assert first[0]["steps"] != reseeded[0]["steps"]
    masks = [result["masks"] for result in first]
    assert set(masks[0]) == {"language hidden", "language attention", "images hidden", "images attention"}
    assert masks[0]["language hidden"] == masks[1]["language hidden"], "replicated over tp"
    for kind in ("language attention", "images hidden", "images attention"):
        assert not set(masks[0][kind]) & set(masks[1][kind]), kind


def test_modules_of_hooks_have_streams_and_groups_the_worlds_timeout() -> None:
    one, other = ranks.run(2, "provider_jobs:after_hooks", TOGETHER.to_json())
    assert one["masks"]["language hidden"] == other["masks"]["language hidden"], "replicated over tp"
    assert len(one["timeouts"]) == 1
    (seconds,) = one["timeouts"]
    assert seconds < 600, "torch's own default is 30 minutes"


def test_the_documented_loop_runs() -> None:
    (code,) = re.findall(r"^```python\n(import os.*?)^```", PAGE, flags=re.M | re.S)
    results = ranks.run(4, "provider_jobs:page", code)
    losses = [result["losses"] for result in results if result["losses"]]
    assert losses
    assert all(last < first for first, *_, last in losses)


def test_every_name_of_the_library_is_documented() -> None:
    (names,) = ranks.run(1, "provider_checks:names")
    table = PAGE.partition("## The names")[2].partition("\n## ")[0]
    assert [name for name in names if f"`{name}" not in table] == []


def test_colocated_bridges_are_the_models() -> None:
    for result in ranks.run(TOGETHER.world_size, "provider_jobs:colocated_config", TOGETHER.to_json()):
        assert result["topology"] == {"language": [], "images": ["language"]}
        assert result["edges"] == result["bridges"] == [("images", "language")]
        assert result["same_grids"]
        assert result["alone"] == result["shapes"]


def test_precision_is_the_plans_or_the_callers() -> None:
    assert APART.training.dtype == "bf16"
    for rank, result in enumerate(ranks.run(APART.world_size, "provider_jobs:precision", APART.to_json())):
        assert result["cast"] == result["wrapped"] == {"torch.bfloat16"}
        assert result["kinds"] == [["DistributedDataParallel", "Float16Module"]] * len(APART.role(rank).modules)
        assert result["unwrapped"]
        assert result["step"][0] == pytest.approx(math.log(256), rel=1e-2), "a step through Float16Module"
