"""Law: nothing hangs if a rank is lost in the middle of a transfer. The others name the edge and the peer, in time."""

from __future__ import annotations

import pytest

from planner import Plan
from tests.executor.jobs import ranks
from tests.executor.test_bridges_equal_one_process import FLAT, layout

PLAN = layout({"tp": 2, "dp": 2}, {"tp": 2, "dp": 2}, FLAT)  # images on ranks 0-3, language on 4-7
SLICED = layout({"tp": 2, "dp": 2}, {"tp": 2, "dp": 2}, FLAT, sliced=True)
SHARED = layout({"dp": 4, "rank_offset": 0}, {"tp": 4, "rank_offset": 0}, FLAT)
TIMEOUT = 4.0


@pytest.mark.parametrize("how", ["dies", "silent"])
@pytest.mark.parametrize(("victim", "peer", "verb"), [(3, 6, "receiving from rank 3"), (6, 3, "receiving from rank 6")])
def test_the_peer_of_a_lost_leader_names_it(victim: int, peer: int, verb: str, how: str) -> None:
    """Rank 3 leads the second lane of images, rank 6 that of language."""
    found = ranks.run_all(8, "bridge_jobs:lost", PLAN.to_json(), victim, how, TIMEOUT, timeout=60)
    said, seconds = found[peer]
    assert said.startswith(f"bridge images->language: lost the peer while {verb}")
    assert f"rank {victim}: " in said
    assert seconds < 2 * TIMEOUT
    for rank in (0, 1, 4, 5):  # other lanes have lost nobody
        assert found[rank][0] == ""


@pytest.mark.parametrize(
    ("plan", "victim", "witnesses"),
    [
        pytest.param(PLAN, 7, {6: "lost one of the ranks 6, 7 of a lane"}, id="a rank in a broadcast"),
        pytest.param(PLAN, 6, {7: "lost one of the ranks 6, 7 of a lane"}, id="the leader of a broadcast"),
        pytest.param(SLICED, 2, {6: "lost the peer while receiving from rank 2"}, id="slices"),
        pytest.param(SHARED, 2, dict.fromkeys((0, 1, 3), "lost the peer while"), id="shared ranks"),
    ],
)
def test_others_name_the_lane_or_the_peer(plan: Plan, victim: int, witnesses: dict[int, str]) -> None:
    found = ranks.run_all(plan.world_size, "bridge_jobs:lost", plan.to_json(), victim, "dies", TIMEOUT, timeout=60)
    for rank, said in witnesses.items():
        assert found[rank][0].startswith("bridge images->language: ")
        assert said in found[rank][0]
        assert found[rank][1] < 2 * TIMEOUT
