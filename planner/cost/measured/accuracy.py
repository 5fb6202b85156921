"""How far predictions are from measured runs: the errors that a benchmark prints and a test bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from math import isnan
from statistics import mean

from ...base import codes
from ...base.errors import Fault, Mark, limited
from ...base.frozen import frozen
from ..simulation.durations import Durations
from ..simulation.simulate import simulate
from ..timing.hardware import Hardware
from ..timing.workload import Workload
from .calibrate import Sample, calibrate, predicted, unfitted
from .cells import Row
from .csv_file import Runs
from .measurements import measured_ms
from .predict import each_row
from .row_work import WorkOfRows


def samples_of(runs: Runs) -> tuple[Sample, ...]:
    """The measured runs of a file with their counted work.

    Raises:
        PlanError: with every row at fault, or because there are no rows. A plan whose simulation never ends is a
            fault here, so that no fit meets one.
    """

    def that_ends(work: Workload) -> Workload:
        if len(work.plan.modules) > 1:
            simulate(work.plan, Durations.uniform(work.plan))
        return work

    works = WorkOfRows(runs, that_ends)

    files = runs.files

    def sample(row: Row) -> Sample:
        return Sample(work=works.of(row), seconds=measured_ms(row, files) / 1e3)

    found, faults = each_row(runs, sample)
    if not found:
        rule, mark = "the file has a measured run or more, got none", Mark(runs.file, 1, 1)
        faults = [Fault(codes.MISSING_KEY, ("row",), rule, "write a line for each run", mark)]
    if faults:
        raise limited(faults)
    return tuple(one for one in found if one)


@frozen(kw_only=True)
class Errors:
    """How far some predictions are from measurements.

    Attributes:
        mean: the mean of |predicted / measured - 1|.
        largest: the largest of them.
        spearman: the correlation of the ranks (see `spearman`).
    """

    mean: float
    largest: float
    spearman: float

    @classmethod
    def of(cls, predictions: Sequence[float], measurements: Sequence[float]) -> Errors:
        """The errors of predictions, each of the measurement at the same index."""
        each = [abs(p / m - 1) for p, m in zip(predictions, measurements, strict=True)]
        return cls(mean=mean(each), largest=max(each), spearman=spearman(predictions, measurements))

    def __str__(self) -> str:
        rho = "" if isnan(self.spearman) else f", Spearman {self.spearman:.3f}"
        return f"mean error {self.mean:.1%}, largest {self.largest:.1%}{rho}"


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's rho: the correlation of the ranks, in which equal values share the mean of their ranks.

    It is NaN if there are fewer than three values, or if one side is constant, since it then says nothing.
    """
    a, b = _ranks(left), _ranks(right)
    middle = (len(a) - 1) / 2
    covariance = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    spread = sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b)
    return covariance / spread**0.5 if spread and len(a) > 2 else float("nan")


def _ranks(values: Sequence[float]) -> list[float]:
    shared, before = {}, 0
    for value, count in sorted(Counter(values).items()):
        shared[value] = before + (count - 1) / 2
        before += count
    return [shared[value] for value in values]


def cross_validated(
    hardware: Hardware,
    files: Sequence[Sequence[Sample]],
    keys: Sequence[Sequence[Hashable]],
    *,
    steps: int = 60,
    progress: Callable[[float], None] | None = None,
) -> list[list[float]]:
    """The predicted seconds of every run, by constants fitted without any run of the same key.

    Args:
        hardware: the constants to fit, and where to begin.
        files: the measured runs of each file, as in `calibrate`.
        keys: the key of each run of each file. Runs with equal keys are left out together, from all files; there are
            at least two different keys.
        steps: moves of the simplex per round.
        progress: is told the share that is done.
    """
    found = [[0.0] * len(samples) for samples in files]
    different = list(dict.fromkeys(key for column in keys for key in column))
    for number, key in enumerate(different):
        if progress:
            progress(number / len(different))
        pairs = [list(zip(samples, column, strict=True)) for samples, column in zip(files, keys, strict=True)]
        training = [[one for one, own in file if own != key] for file in pairs]
        without = calibrate(unfitted(hardware), [file for file in training if file], steps=steps)
        for index, file in enumerate(pairs):
            chosen = [i for i, (_, own) in enumerate(file) if own == key]
            for i, seconds in zip(chosen, predicted([file[i][0] for i in chosen], without), strict=True):
                found[index][i] = seconds
    return found


def choice_loss(samples: Sequence[Sample], predictions: Sequence[float]) -> tuple[float, float, int]:
    """What choosing a layout by its predicted time costs, among the layouts that were measured for the same job.

    Returns:
        The mean and the largest of: the measured time of the layout predicted to be fastest, over that of the fastest,
        minus 1; and the number of jobs with two layouts or more.
    """
    jobs: dict[Hashable, list[int]] = {}
    for index, sample in enumerate(samples):
        jobs.setdefault(_job(sample), []).append(index)
    losses = []
    for members in jobs.values():
        if len(members) > 1:
            chosen = min(members, key=lambda i: predictions[i])
            losses.append(samples[chosen].seconds / min(samples[i].seconds for i in members) - 1)
    return mean(losses), max(losses), len(losses)


def _job(sample: Sample) -> Hashable:
    """The models, the number of GPUs, the batch and its length: what a user chooses a layout for."""
    plan = sample.work.plan
    models = tuple((module.name, module.model) for module in plan.modules)
    return models, plan.world_size, plan.batch_sizes.global_size, plan.batch_sizes.seq_length
