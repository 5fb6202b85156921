"""A minimiser that needs no derivatives: the simplex of Nelder and Mead (1965), with restarts, in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Point = tuple[float, ...]
_STEP = 0.2


def minimise(
    function: Callable[[Point], float],
    start: Sequence[float],
    steps: int,
    rounds: int = 3,
    progress: Callable[[float], None] | None = None,
) -> Point:
    """The point near `start` at which a reasonably smooth function is smallest.

    Args:
        function: the function to minimise, of a point with as many numbers as `start`.
        start: the point to begin at.
        steps: number of moves of the simplex in each round.
        rounds: number of rounds; each begins with a new simplex around the best point.
        progress: is told the share of all moves that is done.
    """
    best = tuple(start)
    for number in range(rounds):

        def moved(step: int, before: int = number * steps) -> None:
            if progress:
                progress((before + step) / (rounds * steps))

        best = _round(function, best, steps, moved)
    return best


def _round(function: Callable[[Point], float], start: Point, steps: int, moved: Callable[[int], None]) -> Point:
    points = [start, *(_beside(start, i, _STEP) for i in range(len(start)))]
    simplex = sorted((function(point), point) for point in points)
    for step in range(steps):
        moved(step)
        worst_value, worst = simplex[-1]
        centre = tuple(sum(column) / len(start) for column in zip(*(p for _, p in simplex[:-1]), strict=True))
        value, point = _try(function, centre, worst, -1.0)
        if value < simplex[0][0]:
            simplex[-1] = min((value, point), _try(function, centre, worst, -2.0))
        elif value < simplex[-2][0]:
            simplex[-1] = (value, point)
        else:
            inner = _try(function, centre, worst, -0.5 if value < worst_value else 0.5)
            if inner[0] < min(value, worst_value):
                simplex[-1] = inner
            else:
                best = simplex[0][1]
                simplex = [simplex[0], *(_try(function, best, p, 0.5) for _, p in simplex[1:])]
        simplex.sort()
    return simplex[0][1]


def _try(function: Callable[[Point], float], centre: Point, point: Point, factor: float) -> tuple[float, Point]:
    moved = tuple(c + factor * (x - c) for c, x in zip(centre, point, strict=True))
    return function(moved), moved


def _beside(point: Point, index: int, by: float) -> Point:
    return (*point[:index], point[index] + by, *point[index + 1 :])
