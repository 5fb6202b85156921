"""Assertions about plans whose messages say what is wrong. They need neither pytest nor hypothesis."""

from __future__ import annotations

from ..diff import differences
from ..plan import Plan
from ..verify import verify
from ..verify.brute_force import MAX_RANKS


def assert_valid(plan: Plan, *, max_ranks: int = MAX_RANKS) -> None:
    """Assert that a plan answers every question as brute force does.

    The verifier recomputes the groups, transfers, stages, batch slices and views of every rank from the sizes that the
    plan holds, with arithmetic that shares nothing with the planner's own, and compares. What `compile_spec` returns
    always passes; a plan that a test has put together, or a subclass of Plan, may not.

    Args:
        plan: the plan to check.
        max_ranks: the largest world to check. Time and memory grow with it: about a second for 1,000 ranks.

    Raises:
        VerificationError: an AssertionError with a line for each of the first eight wrong answers: where it was
            found, what was expected, and what the plan answered.
        ValueError: the plan has more than `max_ranks` ranks, or more than 2**20 samples in a microbatch.
    """
    verify(plan, max_ranks=max_ranks)


def assert_same_plan(expected: Plan, actual: Plan) -> None:
    """Assert that two plans are equal: the same modules, edges, sizes and settings, and so the same digest.

    Warnings are not compared, nor is the way in which a spec was written: only what was decided.

    Args:
        expected: the plan that is known to be right, a stored one for example.
        actual: the plan to compare with it.

    Raises:
        AssertionError: the plans differ. Its message is what `mimo diff` prints: a line for each change, from
            `expected` to `actual`, and the ranks that the changes touch.
    """
    lines = differences(expected, actual)
    if lines:
        raise AssertionError("\n  ".join(["the plans differ, expected -> actual:", *lines]))
