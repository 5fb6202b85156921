"""Errors of the executor. Each says what is wrong and what to change; none needs a traceback."""

from __future__ import annotations


class ExecutorError(RuntimeError):
    """Something that stops a run and that its user can change."""


class DisagreementError(ExecutorError):
    """Ranks were started with different plans or versions, or not all of them started."""


class UnsupportedError(ExecutorError):
    """The plan is valid, but the installed megatron-core or torch cannot run it."""


class PlanMismatchError(ExecutorError):
    """megatron-core derived something else than the plan says: the run would train another layout."""


class LostPeerError(ExecutorError):
    """Another rank died, or did not answer in time."""
