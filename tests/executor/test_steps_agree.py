"""What went wrong elsewhere in a training step, named by its issue."""

from __future__ import annotations

import ranks
import specs

PLAN = specs.plan({"dp": 2}, {"dp": 1}, fixed=True)


def test_megatron_lm_5331_and_bridge_5591_ranks_agree_whether_the_update_succeeded() -> None:
    """One rank's gradients overflow: no rank updates, all say so, and the next step runs on all."""
    victim = PLAN.module("images").grid.rank_offset
    for kept, said in ranks.run(PLAN.world_size, "jobs:train_with_bad_gradients", PLAN.to_json(), victim):
        assert all(kept)
        assert said.startswith("step 1: gradients are not finite")
        assert said.endswith("then step 2")


def test_megatron_lm_5234_transfers_run_in_their_edges_own_group() -> None:
    """Cross-grid sends ran on the world group. Within a module stages are one deep here: all transfers are bridges'."""
    for used in ranks.run(PLAN.world_size, "jobs:groups_of_transfers", PLAN.to_json()):
        assert {"isend", "irecv"} <= set(used), "every rank of this plan sends and receives"
        assert all(used[name] == ["images->language:bridge_p2p"] for name in used if name != "broadcast")
        assert "world" not in used.get("broadcast", [])
