"""Nothing hangs when a rank is lost in the middle of a transfer: the others name the edge and the peer, in time."""

from __future__ import annotations

import pytest
import ranks
from test_bridges_equal_one_process import FLAT, layout

PLAN = layout({"tp": 2, "dp": 2}, {"tp": 2, "dp": 2}, FLAT)  # images on ranks 0-3, language on 4-7
TIMEOUT = 4.0


@pytest.mark.parametrize("how", ["dies", "silent"])
@pytest.mark.parametrize(("victim", "peer", "verb"), [(3, 6, "receiving from"), (6, 3, "")])
def test_the_peer_of_a_lost_leader_names_it(victim: int, peer: int, verb: str, how: str) -> None:
    """Rank 3 leads the second lane of images, rank 6 that of language."""
    found = ranks.run_all(8, "bridge_jobs:lost", PLAN.to_json(), victim, how, TIMEOUT, timeout=60)
    said, seconds = found[peer]
    assert said.startswith(f"bridge images->language: lost the peer while {verb}")
    assert f"rank {victim}: " in said
    assert seconds < 2 * TIMEOUT
    for rank in (0, 1, 4, 5):  # the other lanes have lost nobody
        assert found[rank][0] == ""
