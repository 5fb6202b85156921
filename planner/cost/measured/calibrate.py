"""Fits a GPU's few constants to measured runs.

Minimised is the mean |log(predicted / measured)| of each file, summed over the files so that a short one counts as
much as a long one, and for every constant a small price on leaving its start: PRICE * (log(value / start)
/ SPREAD)^2. The price keeps constants that the runs say little of where they were, and all of them physical.
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
PERTURBATION = 1.1
NEGLIGIBLE = 1e-9  # an influence of rounding alone
_STEPS = 150


@frozen(kw_only=True)
class Sample:
    """One measured run: its counted work and its seconds."""

    work: Workload
    seconds: float


def predicted(samples: Sequence[Sample], hardware: Hardware) -> list[float]:
    """Seconds of every run. Raises DeadlockError."""
    rates = rates_of(hardware)
    return [step_seconds(one.work, rates) for one in samples]


def fitted(hardware: Hardware) -> tuple[str, ...]:
    """The constants that a fit may change."""
    return tuple(name for name, constant in constants(hardware).items() if constant.start is not None)


def unfitted(hardware: Hardware) -> Hardware:
    """The hardware before any fit."""
    return _begun(hardware, fitted(hardware))


def calibrate(
    hardware: Hardware,
    files: Sequence[Sequence[Sample]],
    *,
    steps: int = _STEPS,
    progress: Callable[[float], None] | None = None,
) -> Hardware:
    """The hardware with the constants that suit the samples best. Those that no sample depends on are left alone.

    Args:
        hardware: names the constants to fit, and where to begin.
        files: measured runs, in sets that count alike; none of them empty.
        steps: moves of the simplex per round; three rounds.
        progress: is told the share that is done.
    """
    felt = influence(unfitted(hardware), files)
    names = tuple(name for name in fitted(hardware) if felt[name] > NEGLIGIBLE)
    if not names:
        return hardware
    start = _begun(hardware, names)
    begin = tuple(log(getattr(start, name).value) for name in names)

    def cost(point: Point) -> float:
        rates = rates_of(_at(start, names, point))
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
    """By how much, as a share, a step of the average run changes where a constant that a fit may change is MORE."""
    samples = [one for file in files for one in file]
    as_is = predicted(samples, hardware)
    found = {}
    for name in fitted(hardware):
        changed = predicted(samples, _with(hardware, {name: PERTURBATION * getattr(hardware, name).value}, "tried"))
        found[name] = sum(abs(new / old - 1) for new, old in zip(changed, as_is, strict=True)) / len(samples)
    return found


def _begun(hardware: Hardware, names: tuple[str, ...]) -> Hardware:
    return _with(hardware, {name: getattr(hardware, name).start for name in names}, "where a fit starts")


def _at(hardware: Hardware, names: tuple[str, ...], point: Point) -> Hardware:
    return _with(hardware, dict(zip(names, map(exp, point), strict=True)), "tried")


def _with(hardware: Hardware, values: dict[str, float], source: str) -> Hardware:
    changed = {
        name: attrs.evolve(getattr(hardware, name), value=float(f"{value:.6g}"), source=source)
        for name, value in values.items()
    }
    return attrs.evolve(hardware, **changed)
