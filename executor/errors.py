"""The executor's errors. Each message says what is wrong and what to change; none of them needs a traceback."""

from __future__ import annotations


class ExecutorError(RuntimeError):
    """Stops a run for a reason that the user can change."""


class DisagreementError(ExecutorError):
    """Ranks were started with different plans, options or versions, or not all of them were started."""


class UnsupportedError(ExecutorError):
    """The plan is valid, but the installed megatron-core or torch cannot run it."""


class PlanMismatchError(ExecutorError):
    """megatron-core derived something else than the plan says, so the run would train another layout."""


class LostPeerError(ExecutorError):
    """Another rank died, or did not answer in time."""
