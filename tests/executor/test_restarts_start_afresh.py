"""Law: under `torchrun --max-restarts`, whose store outlives an attempt, the next attempt reads nothing of it.

With two agents, those of one attempt count its restarts differently: the agent whose worker died counts one more.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from tests import DATA, ROOT
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


@pytest.mark.parametrize(
    "when", ["before", pytest.param("during", marks=pytest.mark.long), pytest.param("after", marks=pytest.mark.long)]
)
def test_ranks_of_two_agents_meet_after_a_restart(when: str, tmp_path: Path) -> None:
    """A worker of the second agent is killed before, during or after the meeting; the next attempt meets and ends."""
    port = ranks.free_port()
    options = [
        "--nnodes=2", "--nproc-per-node=1", "--max-restarts=1", "--monitor-interval=0.1", "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=two", "--local-addr=127.0.0.1",
    ]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "tests.executor.jobs.restarting"]
    agents = [
        subprocess.Popen(
            [*command, when, str(tmp_path / "died")],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        told = [agent.communicate(timeout=150) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert (tmp_path / "died").exists()
    assert [agent.returncode for agent in agents] == [0, 0], told
    met = [re.findall(r"rank (\d) met in (\w+), restarted (\d) times", out) for out, _ in told]
    last = [lines[-1] for lines in met]
    assert sorted(rank for rank, _, _ in last) == ["0", "1"]
    assert len({attempt for _, attempt, _ in last}) == 1, "both are in one attempt"
    assert sorted(count for _, _, count in last) == ["0", "1"], "torchrun's counts differ, which is what is tested"
