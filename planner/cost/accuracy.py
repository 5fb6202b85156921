"""How far predictions are from measured runs: the errors that a benchmark prints and a test bounds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from statistics import mean

import attrs

from .calibrate import Sample, calibrate, unfitted
from .hardware import Hardware
from .pipeline import step_seconds
from .predict_runs import workloads_of
from .runs import Row, Runs, measured_ms, row_fault
from .timing import rates_of


def samples_of(runs: Runs) -> tuple[Sample, ...]:
    """The measured runs of a file with their counted work. Raises PlanError with the line of a row at fault."""
    found = []
    for index, work in enumerate(workloads_of(runs)):
        try:
            found.append(Sample(work=work, seconds=measured_ms(runs.kind, runs.rows[index]) / 1e3))
        except ValueError as error:
            raise row_fault(runs, index, error) from None
    return tuple(found)


def predicted(samples: Sequence[Sample], hardware: Hardware) -> list[float]:
    """Seconds of every run."""
    rates = rates_of(hardware)
    return [step_seconds(one.work, rates) for one in samples]


@attrs.frozen(kw_only=True)
class Errors:
    """Of predictions against measurements: mean and largest |predicted / measured - 1|, and Spearman's rho."""

    mean: float
    largest: float
    spearman: float

    @classmethod
    def of(cls, predictions: Sequence[float], measurements: Sequence[float]) -> Errors:
        """The errors of some predictions."""
        each = [abs(p / m - 1) for p, m in zip(predictions, measurements, strict=True)]
        return cls(mean=mean(each), largest=max(each), spearman=spearman(predictions, measurements))


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Correlation of the ranks; equal values share the mean of their ranks. NaN where one side is constant."""
    a, b = _ranks(left), _ranks(right)
    middle = (len(a) - 1) / 2
    covariance = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    spread = sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b)
    return covariance / spread**0.5 if spread else float("nan")


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    first = {value: order.index(value) for value in set(values)}
    return [first[value] + (order.count(value) - 1) / 2 for value in values]


def cross_validated(
    hardware: Hardware, files: Sequence[Sequence[Sample]], keys: Sequence[Sequence[Hashable]], *, steps: int = 60
) -> list[list[float]]:
    """Seconds of every run, each by constants fitted without any run that has its key, in all files alike."""
    found = [[0.0] * len(samples) for samples in files]
    for key in dict.fromkeys(key for column in keys for key in column):
        pairs = [list(zip(samples, column, strict=True)) for samples, column in zip(files, keys, strict=True)]
        training = [[one for one, own in file if own != key] for file in pairs]
        without = calibrate(unfitted(hardware), [file for file in training if file], steps=steps)
        for index, file in enumerate(pairs):
            chosen = [i for i, (_, own) in enumerate(file) if own == key]
            for i, seconds in zip(chosen, predicted([file[i][0] for i in chosen], without), strict=True):
                found[index][i] = seconds
    return found


def choice_loss(
    rows: Sequence[Row], predictions: Sequence[float], measurements: Sequence[float], same: Callable[[Row], Hashable]
) -> tuple[float, float, int]:
    """(mean, largest, number of choices): what the predicted fastest of comparable rows takes over the fastest."""
    groups: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(same(row), []).append(index)
    losses = []
    for members in groups.values():
        if len(members) > 1:
            chosen = min(members, key=lambda i: predictions[i])
            losses.append(measurements[chosen] / min(measurements[i] for i in members) - 1)
    return mean(losses), max(losses), len(losses)
