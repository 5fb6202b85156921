"""The fit of a GPU's few constants to measured runs.

The fit minimises the mean of |log(predicted / measured)| over the runs of a file, summed over the files so that a short
file counts as much as a long one. To this it adds a small price for every constant that leaves its start:

    PRICE * (log(value / start) / SPREAD)^2

The price keeps a constant near its start if the runs say little about it, and keeps all of them physical.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log

import attrs

from ...base.frozen import frozen
from ..timing.hardware import Hardware, constants
from ..timing.step_time import step_seconds
from ..timing.timing import rates_of
from ..timing.workload import Workload
from .nelder_mead import Point, minimise

PRICE = 0.004
SPREAD = 0.3
PERTURBATION = 1.1  # the factor by which a constant is changed, to see what depends on it
NEGLIGIBLE = 1e-9  # an influence that is rounding alone
_STEPS = 150


@frozen(kw_only=True)
class Sample:
    """One measured run.

    Attributes:
        work: its counted work.
        seconds: the measured seconds of a step.
    """

    work: Workload
    seconds: float


def predicted(samples: Sequence[Sample], hardware: Hardware) -> list[float]:
    """The predicted seconds of every run. Raises DeadlockError."""
    rates = rates_of(hardware)
    return [step_seconds(one.work, rates) for one in samples]


def fitted(hardware: Hardware) -> tuple[str, ...]:
    """The names of the constants that a fit may change: those with a start."""
    return tuple(name for name, constant in constants(hardware).items() if constant.start is not None)


def unfitted(hardware: Hardware) -> Hardware:
    """The hardware before any fit, with every such constant at its start."""
    return _at_start(hardware, fitted(hardware))


def calibrate(
    hardware: Hardware,
    files: Sequence[Sequence[Sample]],
    *,
    steps: int = _STEPS,
    progress: Callable[[float], None] | None = None,
) -> Hardware:
    """The hardware with the constants that suit the samples best. A constant on which no sample depends is left alone.

    Args:
        hardware: the constants to fit, and where to begin.
        files: the measured runs of each file. The files count alike, and none is empty.
        steps: moves of the simplex per round; three rounds.
        progress: is told the share that is done.
    """
    influences = influence(unfitted(hardware), files)
    names = tuple(name for name in fitted(hardware) if influences[name] > NEGLIGIBLE)
    if not names:
        return hardware
    start = _at_start(hardware, names)
    begin = tuple(log(getattr(start, name).value) for name in names)

    def cost(point: Point) -> float:
        rates = rates_of(_at_point(start, names, point))
        total = PRICE * sum(((x - x0) / SPREAD) ** 2 for x, x0 in zip(point, begin, strict=True))
        for samples in files:
            errors = (abs(log(step_seconds(one.work, rates) / one.seconds)) for one in samples)
            total += sum(errors) / len(samples)
        return total

    best = minimise(cost, begin, steps, progress=progress)
    num = sum(map(len, files))
    source = f"fitted to {num} measured runs" if num > 1 else "fitted to one measured run"
    return _with(hardware, dict(zip(names, map(exp, best), strict=True)), source)


def influence(hardware: Hardware, files: Sequence[Sequence[Sample]]) -> dict[str, float]:
    """The share by which a step of the average run changes if a constant is PERTURBATION times as large.

    The result has every constant that a fit may change, by name.
    """
    samples = [one for file in files for one in file]
    as_is = predicted(samples, hardware)
    found = {}
    for name in fitted(hardware):
        changed = predicted(samples, _with(hardware, {name: PERTURBATION * getattr(hardware, name).value}, "tried"))
        found[name] = sum(abs(new / old - 1) for new, old in zip(changed, as_is, strict=True)) / len(samples)
    return found


def _at_start(hardware: Hardware, names: tuple[str, ...]) -> Hardware:
    return _with(hardware, {name: getattr(hardware, name).start for name in names}, "where a fit starts")


def _at_point(hardware: Hardware, names: tuple[str, ...], point: Point) -> Hardware:
    return _with(hardware, dict(zip(names, map(exp, point), strict=True)), "tried")


def _with(hardware: Hardware, values: dict[str, float], source: str) -> Hardware:
    changed = {
        name: attrs.evolve(getattr(hardware, name), value=float(f"{value:.6g}"), source=source)
        for name, value in values.items()
    }
    return attrs.evolve(hardware, **changed)
