"""Law: whatever happens to a rank, and wherever, all others end in time, one says why, and the message names the rank.

There is no launcher here that would end them: they must find out by themselves, and rank 0 serves the store.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from tests.executor.jobs import ranks, specs
from tests.executor.jobs.injector import HOW, PHASES, Case

TIMEOUT = 4.0
MARGIN = 6.0  # seconds that a busy machine may need beyond the bound
WORKERS = 3
LAYOUTS = {
    "disjoint": ({}, {}, "disjoint"),
    "tp": ({"tp": 2}, {"tp": 2}, "colocated"),
    "dp": ({"dp": 2}, {"dp": 2}, "colocated"),
}
ALL = [Case(*case) for case in itertools.product(LAYOUTS, HOW, PHASES, (0, 1))]
# Every way in every phase once, on changing layouts and ranks; less those that take a whole timeout and differ little.
FEW = [
    Case(list(LAYOUTS)[(index + row) % 3], how, phase, (index + row) % 2)
    for row, how in enumerate(HOW)
    for index, phase in enumerate(PHASES)
    if not (how == "stop" and phase in ("connecting", "checking", "building the model", "ending"))
]


@attrs.frozen
class Outcome:
    """How a case ended.

    Attributes:
        hanging: ranks that ran on, without the victim if it was stopped.
        codes: exit codes by rank; None for a rank that did not end.
        seconds: from what happened until the first message; None without a message.
        message: what all ranks wrote to stderr.
    """

    hanging: tuple[int, ...]
    codes: tuple[int | None, ...]
    seconds: float | None
    message: str


def happen(case: Case, folder: Path, env: dict[str, str] | None = None) -> Outcome:
    """Run a case."""
    folder.mkdir()
    language, images, placement = LAYOUTS[case.layout]
    plan = folder / "plan.json"
    plan.write_text(specs.plan(language, images, placement=placement, micro_size=2).to_json())
    errors = [folder / f"{rank}.err" for rank in (0, 1)]
    hit, spoke_at, last_start = folder / "hit", None, time.time()
    with ranks.started(2, "injector:rank", case, str(plan), str(folder), TIMEOUT, env=env) as processes:
        waited = [rank for rank in (0, 1) if not (case.how == "stop" and rank == case.victim)]
        while any(processes[rank].exitcode is None for rank in waited):
            happened = float(hit.read_text() or last_start) if hit.exists() else None
            if spoke_at is None and any(file.exists() and "executor:" in file.read_text() for file in errors):
                spoke_at = time.time()
            if time.time() > (happened or last_start + 60) + 1.5 * TIMEOUT + MARGIN:
                break
            time.sleep(0.02)
        codes = tuple(process.exitcode for process in processes)
    text = "".join(file.read_text() for file in errors if file.exists())
    if spoke_at is None and "executor:" in text:
        spoke_at = time.time()
    assert hit.exists(), f"{case} did not happen: {text}"
    seconds = None if spoke_at is None else spoke_at - float(hit.read_text())
    return Outcome(tuple(rank for rank in waited if codes[rank] is None), codes, seconds, text)


def all_of(cases: list[Case], folder: Path) -> dict[Case, Outcome]:
    with ThreadPoolExecutor(WORKERS) as pool:
        outcomes = pool.map(lambda case: happen(case, folder / str(ALL.index(case))), cases)
        return dict(zip(cases, outcomes, strict=True))


def faults_of(case: Case, outcome: Outcome) -> Iterator[str]:
    """What is against the law in an outcome."""
    survivor = 1 - case.victim
    if outcome.hanging:
        yield f"ranks {outcome.hanging} hang"
    if "Traceback" in outcome.message:
        yield "a traceback"
    if case.phase == "ending" and outcome.codes[survivor] == 0:
        return  # its work was done, and it needs nobody
    runs_on = case.how == "terminate" and case.phase == "checking"  # for as long as it takes to tell, to the end
    if outcome.codes[survivor] == 0 and not runs_on:
        yield "the survivor says that all is well"
    if not 1 <= outcome.message.count("executor:") <= 2:  # 2 if rank 0 is gone and with it the store
        yield f"{outcome.message.count('executor:')} messages"
    if f"rank {case.victim}" not in outcome.message and f"ranks {case.victim}" not in outcome.message:
        yield "the rank is not named"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Outcome]:
    return all_of(FEW, tmp_path_factory.mktemp("few"))


@pytest.mark.parametrize("case", FEW, ids=str)
def test_whatever_happens_is_told_in_time(case: Case, few: dict[Case, Outcome]) -> None:
    assert not list(faults_of(case, few[case])), few[case]


@pytest.fixture
def freezes(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of ranks whose launcher serves the store, and stops at the moment at which something happens."""
    served = tmp_path / "served"
    with ranks.started(1, "injector:serve", str(served)):
        while not served.exists():
            time.sleep(0.02)
        port, launcher = served.read_text().split()
        yield {"MASTER_PORT": port, "FREEZE": launcher, "TORCHELASTIC_USE_AGENT_STORE": "True"}


def test_a_dead_rank_is_told_if_the_stores_host_is_frozen(freezes: dict[str, str], tmp_path: Path) -> None:
    """No answer of the store will ever come, so that nobody can be asked which rank is lost."""
    outcome = happen(Case("dp", "kill", "training", 1), tmp_path / "case", freezes)
    assert (outcome.hanging, outcome.codes) == ((), (1, -9)), outcome
    assert outcome.message.count("executor:") == 1
    assert "rank 0 lost another rank" in outcome.message
    assert "which the launcher serves, does not answer: the launcher is frozen or out of reach" in outcome.message


def test_a_rank_that_waits_for_a_frozen_store_ends(freezes: dict[str, str], tmp_path: Path) -> None:
    """Creating a group needs the store, whose calls do not return then, whatever their timeout is."""
    outcome = happen(Case("dp", "stop", "creating groups", 1), tmp_path / "case", freezes)
    assert (outcome.hanging, outcome.codes[0]) == ((), 1), outcome
    assert "rank 0 made no progress for " in outcome.message
    assert "the launcher is frozen or out of reach" in outcome.message


@pytest.mark.long
def test_all_cases(tmp_path: Path) -> None:
    """All 168. Prints how many hang, and how long the first message took."""
    outcomes = all_of(ALL, tmp_path)
    times = [outcome.seconds / TIMEOUT for outcome in outcomes.values() if outcome.seconds is not None]
    hangs = sum(bool(outcome.hanging) for outcome in outcomes.values())
    print(  # noqa: T201  what the sweep found
        f"{len(outcomes)} cases, {hangs} hang, the message comes after {statistics.median(times):.2f} x timeout"
    )
    faults = [f"{case}: {fault}: {outcome}" for case, outcome in outcomes.items() for fault in faults_of(case, outcome)]
    assert not faults, "\n".join(faults)
