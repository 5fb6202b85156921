"""How long each operation of a schedule takes: the simulator's only numbers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import isfinite

from ...base.frozen import frozen
from ...base.frozenmap import FrozenMap
from ...layout.ir import Direction
from ...plan import Plan
from .schedule import Stage

Pass = tuple[Stage, Direction]
Edge = tuple[str, str, Direction]


@frozen(kw_only=True)
class Durations:
    """Seconds that every operation takes.

    Attributes:
        passes: by (stage, direction), one microbatch on one lane; with its tensor, context and expert collectives.
        hops: by stage that has one after it in its module, one transfer between the two, either direction.
        edges: by (source, destination, direction), one microbatch over the edge: its messages, then the broadcast or
            gather inside the lane. Where the modules share ranks, these compute nothing meanwhile.

    Raises:
        ValueError: a duration is negative or not finite.
    """

    passes: FrozenMap[Pass, float]
    hops: FrozenMap[Stage, float]
    edges: FrozenMap[Edge, float]

    def __attrs_post_init__(self) -> None:
        times = [*self.passes.items(), *self.hops.items(), *self.edges.items()]
        for key, value in times:
            if not (isfinite(value) and value >= 0):
                name = " ".join(map(str, key)) if isinstance(key, tuple) else key
                raise ValueError(f"a duration is a finite number of seconds >= 0; that of {name} is {value}")

    @classmethod
    def of(
        cls,
        plan: Plan,
        seconds: Callable[[Stage, Direction], float],
        hop: Callable[[Stage], float] = lambda _: 0.0,
        edge: Callable[[str, str, Direction], float] = lambda _src, _dst, _way: 0.0,
    ) -> Durations:
        """The durations of a plan from functions; transfers take no time where none are given."""
        stages = [Stage(module.name, index) for module in plan.modules for index in range(module.num_stages)]
        return cls(
            passes=FrozenMap(((stage, way), seconds(stage, way)) for stage in stages for way in Direction),
            hops=FrozenMap((stage, hop(stage)) for stage, after in pairwise(stages) if stage.module == after.module),
            edges=FrozenMap(((src, dst, way), edge(src, dst, way)) for src, dst in plan.edges for way in Direction),
        )

    @classmethod
    def uniform(cls, plan: Plan, forward: float = 1.0, backward: float = 2.0) -> Durations:
        """Every stage alike, transfers in no time: what the schedule alone does."""
        return cls.of(plan, lambda _, direction: forward if direction is Direction.FORWARD else backward)
