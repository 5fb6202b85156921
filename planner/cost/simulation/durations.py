"""How long each operation of a schedule takes: the only numbers that the simulation needs."""

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
        passes: seconds of one microbatch on one lane of a stage, by (stage, direction); tensor, context and expert
            collectives included.
        hops: seconds of one transfer from a stage to the next of its module, in either direction, by the first of the
            two.
        edges: seconds of one microbatch over an edge, by (source, destination, direction): its messages, and what lanes
            do before and after them. If the modules share ranks, these ranks compute nothing meanwhile.

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
        """The durations of a plan, from functions that give the seconds of each operation.

        Args:
            plan: the plan.
            seconds: seconds of a stage's pass, by stage and direction.
            hop: seconds of a transfer to the next stage of the module, by stage; no time if left out.
            edge: seconds over an edge, by source, destination and direction; no time if left out.
        """
        stages = [Stage(module.name, index) for module in plan.modules for index in range(module.num_stages)]
        return cls(
            passes=FrozenMap(((stage, way), seconds(stage, way)) for stage in stages for way in Direction),
            hops=FrozenMap((stage, hop(stage)) for stage, after in pairwise(stages) if stage.module == after.module),
            edges=FrozenMap(((src, dst, way), edge(src, dst, way)) for src, dst in plan.edges for way in Direction),
        )

    @classmethod
    def uniform(cls, plan: Plan, forward: float = 1.0, backward: float = 2.0) -> Durations:
        """The same seconds for every stage, and none for transfers: what remains is the effect of the schedule."""
        return cls.of(plan, lambda _, direction: forward if direction is Direction.FORWARD else backward)
