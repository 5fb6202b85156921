"""How large a plan may be for what looks at its ranks, passes and messages one by one: predictions and timelines.

A plan answers for 2^24 ranks and any number of microbatches, because it computes what it is asked for. A prediction
simulates every pass, and looks at the ranks of groups and at the messages of bridges (those that differ). The limits
are above usual jobs, and keep the worst plan to a few seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

from ...base import codes
from ...base.errors import Fault, Path, PlanError
from ...layout.ir import Bridge, Strategy
from ...plan import Plan
from ..simulation.schedule import num_passes
from .bridges import num_distinct
from .group_spans import gpus_per_node

MAX_RANKS = 2**18
MAX_STAGES = 384  # of all modules together
MAX_PASSES = 110_000
MAX_MESSAGES = 2**15


def check_timeline(plan: Plan) -> None:
    """Raise PlanError if a plan is too large for its pipeline to be simulated."""
    _raise(_of_timeline(plan))


def check_prediction(plan: Plan) -> None:
    """Raise PlanError if a plan is too large to be predicted."""
    _raise((*_of_timeline(plan), *_of_bridges(plan)))


def _raise(found: Iterator[Fault] | tuple[Fault, ...]) -> None:
    if faults := tuple(found):
        raise PlanError(faults)


def _of_timeline(plan: Plan) -> Iterator[Fault]:
    if plan.world_size > MAX_RANKS:
        yield _fault(("modules",), f"the ranks of a prediction <= {MAX_RANKS:,}, got {plan.world_size:,}", "ranks")
    stages = sum(module.num_stages for module in plan.modules)
    if stages > MAX_STAGES:
        yield _fault(("modules",), f"the stages of a prediction <= {MAX_STAGES:,}, got {stages:,}", "stages")
    passes = num_passes(plan) + 2 * plan.batch.num_microbatches * len(plan.edges)
    if passes > MAX_PASSES:
        rule = f"the passes of a step (microbatches * (stages + edges) * 2) <= {MAX_PASSES:,}, got {passes:,}"
        yield _fault(("batch",), rule, "microbatches, stages or edges")


def _of_bridges(plan: Plan) -> Iterator[Fault]:
    per_node = gpus_per_node(plan)
    messages = sum(_num_messages(bridge, per_node) for bridge in plan.bridges)
    if messages > MAX_MESSAGES:
        rule = f"the messages of bridges that differ <= {MAX_MESSAGES:,}, got {messages:,}"
        yield _fault(("modules",), rule, "lanes, or with numbers of lanes that have a common divisor")


def _num_messages(bridge: Bridge, per_node: int) -> int:
    """The messages that a crossing looks at, at most."""
    src, dst = (sum(map(len, side.sets.boxes(0))) for side in (bridge.src_broadcast, bridge.dst_broadcast))
    each = {Strategy.LEADER: 1, Strategy.SLICES: src + dst - gcd(src, dst)}.get(bridge.strategy, max(src, dst))
    return num_distinct(bridge, per_node) * each


def _fault(path: Path, rule: str, fewer: str) -> Fault:
    return Fault(
        codes.TOO_LARGE_TO_PREDICT, path, rule, f"predict a layout with fewer {fewer}; the plan itself is valid"
    )
