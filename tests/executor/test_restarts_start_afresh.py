"""Law: under `torchrun --max-restarts`, whose store outlives an attempt, the next attempt reads nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from tests import DATA
from tests.executor.jobs import ranks

TWO_RANKS = str(DATA / "two_ranks.yaml")


@pytest.fixture
def launcher() -> Iterator[dict[str, str]]:
    """The environment of workers whose launcher hosts the store, as torchrun does, and the store itself."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    hosted = {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    yield hosted
    del store


def test_an_attempt_does_not_read_the_verdict_of_the_one_before(launcher: dict[str, str], tmp_path: Path) -> None:
    """The first attempt fails, because plans differ. The second, with equal plans, runs on the same store."""
    other = tmp_path / "other.yaml"
    other.write_text(Path(TWO_RANKS).read_text().replace("global_size: ", "global_size: 1"))
    first = ranks.run(2, "jobs:command_on_own_plan", [TWO_RANKS, str(other)], "check", env=launcher)
    assert [code for code, _, _ in first] == [1, 1]
    assert sum("started differently" in err for _, _, err in first) == 1
    for _ in range(2):
        again = ranks.run(2, "jobs:command", "check", TWO_RANKS, env=launcher)
        assert [code for code, _, _ in again] == [0, 0]
        assert "all groups and bridges are as planned" in again[0][1]


def test_a_failure_of_a_later_attempt_is_told_too(launcher: dict[str, str]) -> None:
    """Which rank speaks is decided anew, since the one that spoke in the first attempt is gone."""
    for _ in range(2):
        outcomes = ranks.run(2, "jobs:command", "check", str(DATA / "faulty.yaml"), env=launcher)
        assert sum("ttp" in err for _, _, err in outcomes) == 1
