"""Law: ranks agree on every step. Each test is named after the issue of a fault that another system had."""

from __future__ import annotations

import attrs
import pytest

from planner import Plan, compile_spec
from tests.executor.jobs import ranks, specs
from tests.executor.jobs.parity import measure

PLAN = specs.plan({"dp": 2}, {"dp": 1}, fixed=True)


def test_megatron_lm_5331_and_bridge_5591_ranks_agree_whether_the_update_succeeded() -> None:
    """If the gradients of one rank overflow, no rank updates, all say so, and the next step runs on all."""
    victim = PLAN.module("images").grid.rank_offset
    for kept, said in ranks.run(PLAN.world_size, "jobs:train_with_bad_gradients", PLAN.to_json(), victim):
        assert all(kept)
        assert said.startswith("step 1: gradients are not finite")
        assert said.endswith("then step 2")


def test_megatron_lm_5234_transfers_run_in_their_edges_own_group() -> None:
    """Sends between grids ran on the world group. Modules have one stage here, so that all transfers are of bridges."""
    for used in ranks.run(PLAN.world_size, "jobs:groups_of_transfers", PLAN.to_json()):
        assert {"isend", "irecv"} <= set(used), "every rank of this plan sends and receives"
        assert all(used[name] == ["images->language:bridge_p2p"] for name in used if name != "broadcast")
        assert "world" not in used.get("broadcast", [])


@pytest.mark.parametrize("owner", ["language", "images"])
def test_megatron_lm_5331_one_ranks_nan_stops_all_at_the_same_step(owner: str) -> None:
    """A maximum over the world forgets a NaN, so that one rank would update from it and nobody would know."""
    plan = specs.plan({"tp": 2}, {"dp": 2}, fixed=True)
    told = ranks.run(plan.world_size, "jobs:train_with_nan", plan.to_json(), plan.module(owner).ranks[-1])
    for error, kept in told:
        assert error.startswith("step 0: gradients are not finite; no weight was changed")
        assert kept


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(specs.plan({}, {"dp": 4}, fixed=True), id="4_to_1"),
        pytest.param(specs.plan({"dp": 4}, {"dp": 2}), id="2_to_4"),
        pytest.param(specs.plan({"tp": 4}, {"dp": 4}, fixed=True, placement="colocated"), id="4_to_1_colocated"),
    ],
)
def test_bridge_4066_and_3197_encoder_gradients_do_not_depend_on_the_ratio_of_lanes(plan: Plan) -> None:
    """They were off by encoder_dp / llm_dp. After three steps all weights are those of one rank."""
    measure(plan).check()


def one_microbatch(plan: Plan) -> Plan:
    """The plan with steps of one microbatch, whose gradients are complete after one backward pass."""
    spec = plan.to_spec()
    return compile_spec(attrs.evolve(spec, batch=attrs.evolve(spec.batch, global_size=spec.batch.micro_size)))


@pytest.mark.parametrize("text_only", [(0,), ()])
@pytest.mark.parametrize("placement", ["disjoint", "colocated"])
def test_megatron_lm_5285_text_only_batches_with_overlapped_reduction_do_not_hang(
    placement: str, text_only: tuple[int, ...]
) -> None:
    """All samples, or those of some lanes, have no images, so that the hooks of the encoder do not fire there."""
    plan = one_microbatch(specs.plan({"dp": 2}, {"dp": 2}, micro_size=2, placement=placement))
    measure(plan, text_only=text_only, overlap=True, check_every=1).check()


def test_megatron_lm_5370_no_group_is_created_while_training() -> None:
    """Groups of bridges were made when first used, on some ranks before others: 1F1B deadlocked."""
    plan = specs.plan({"tp": 2, "pp": 2}, {"dp": 2, "tp": 2})
    for counts in ranks.run(plan.world_size, "jobs:groups_made_while_training", plan.to_json()):
        assert len(counts) == 4
        assert len(set(counts)) == 1


def test_megatron_lm_5214_ranks_create_their_own_groups_only() -> None:
    """Members alone make each communicator, once: less than a fifth of what all ranks making all groups would make."""
    plan = specs.plan({"tp": 2, "pp": 2}, {"dp": 2, "tp": 2}, fixed=True)
    created = ranks.run(plan.world_size, "jobs:groups_created", plan.to_json())
    for rank, made in enumerate(created):
        assert made
        assert all(rank in members for members in made)
    assert sum(map(len, created)) < plan.world_size * plan.num_groups / 5
