"""Law: the ranks of one attempt meet in a store that holds earlier attempts, in whatever order they come."""

from __future__ import annotations

from itertools import permutations

import pytest
from torch.distributed import HashStore

from executor.start.meet import UnmetError
from tests.executor.jobs.meet_jobs import met

WORLD = 3


@pytest.mark.parametrize("order", list(permutations(range(WORLD))), ids=str)
def test_ranks_meet_after_earlier_attempts(order: tuple[int, ...]) -> None:
    """Each attempt has an id of its own, though all keys of those before it are still there."""
    store = HashStore()
    attempts = [met(store, list(order), WORLD) for _ in range(3)]
    assert all(len(set(ids)) == 1 for ids in attempts)
    assert len({ids[0] for ids in attempts}) == 3


def test_a_challenge_of_an_earlier_attempt_is_not_believed() -> None:
    """Ranks that come before rank 0 find the last challenge, answer it, and answer the new one when it comes."""
    store = HashStore()
    first = met(store, [0, 1, 2], WORLD)
    again = met(store, [2, 1, 0], WORLD)
    assert set(first).isdisjoint(again)


def test_an_answer_of_an_earlier_attempt_counts_for_nothing() -> None:
    """Rank 2 came to the first attempt, and does not come to the second."""
    store = HashStore()
    met(store, [0, 1, 2], WORLD)
    errors = met(store, [0, 1], WORLD)
    assert [str(error) for error in errors] == ["rank 2 did not come within 0:00:03"] * 2
    assert [error.speaks for error in errors] == [True, False]


def test_without_rank_0_rank_1_says_so() -> None:
    errors = met(HashStore(), [1, 2], WORLD)
    assert [str(error) for error in errors] == ["rank 0 did not come within 0:00:03"] * 2
    assert [isinstance(error, UnmetError) and error.speaks for error in errors] == [True, False]


def test_without_ranks_0_and_1_the_first_rank_of_a_node_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    (error,) = met(HashStore(), [2], WORLD)
    assert isinstance(error, UnmetError)
    assert error.speaks


def test_absent_ranks_are_told_in_runs() -> None:
    (error, *_) = met(HashStore(), [0, 4], 8)
    assert str(error) == "ranks 1-3, 5-7 did not come within 0:00:03"
