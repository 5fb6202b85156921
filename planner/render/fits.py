"""Texts about measured runs: how far predictions are from them, and what a fit to them can and cannot tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from ..base.printable import printable
from ..cost.measured.accuracy import Errors
from ..cost.measured.calibrate import NEGLIGIBLE, PERTURBATION, Sample, predicted
from ..cost.measured.predict import RunPredictions
from ..cost.timing.hardware import Hardware, constants
from .style import Style, columns, plural, wrap

# A share of a step. If changing a constant by PERTURBATION changes a step less, its start decides its fitted value.
WEAK_INFLUENCE = 0.001
# A ratio to the start, either way. A constant beyond it suggests that the runs are of another kind of GPU.
FAR_FROM_START = 1.5


def accuracy_lines(found: RunPredictions) -> list[str]:
    """How far the predictions of a file are from its measurements, and which cells do not hold a measurement."""
    rows = [row for row in found.rows if row]
    unread = [
        f"line {row.line}: {rule}"
        for row, prediction in zip(found.runs.rows, found.rows, strict=True)
        if prediction
        for rule in prediction.unread
    ]
    pairs = {
        "time": [(row.ms, row.measured_ms) for row in rows if row.measured_ms],
        "memory": [(row.gib, row.measured_gib) for row in rows if row.measured_gib],
    }
    lines = [
        f"{name} of {plural(len(both), 'measured run')}: {Errors.of(*zip(*both, strict=True))}"
        for name, both in pairs.items()
        if both
    ]
    if unread:
        lines.append(f"{plural(len(unread), 'cell')} not counted as measured, the first in {unread[0]}")
    return lines


def fit_lines(
    before: Hardware, after: Hardware, influences: Mapping[str, float], num_runs: int, style: Style
) -> list[str]:
    """A table of the constants, then warnings.

    Args:
        before: the hardware before the fit.
        after: the fitted hardware.
        influences: the share by which a step of the average run changes if a constant is PERTURBATION times its start.
        num_runs: the number of runs that were fitted to.
        style: how the lines are laid out and coloured.
    """
    rows = [["constant", "start", "fitted", f"change of a step for {PERTURBATION - 1:.0%} more"]]
    for name, share in influences.items():
        constant = constants(after)[name]
        value = f"{constant.value:.4g}" if share > NEGLIGIBLE else f"kept at {constant.value:.4g}"
        rows.append([name, f"{constant.start:.4g}", value, _influence_text(share)])
    title, *lines = columns(rows, right=frozenset({1, 2, 3}))
    warnings = [f"warning: {text}" for text in _warnings(before, after, influences, num_runs)]
    return [style.dim(title), *lines, *(line for text in warnings for line in wrap(text.split(), style.width))]


def _influence_text(share: float) -> str:
    if share <= NEGLIGIBLE:
        return "no run depends on it"
    return f"{share:.1%}" if share >= WEAK_INFLUENCE else f"under {WEAK_INFLUENCE:.1%}"


def _warnings(before: Hardware, after: Hardware, influences: Mapping[str, float], num_runs: int) -> list[str]:
    found = []
    names = [name for name, share in influences.items() if share > NEGLIGIBLE]
    if num_runs < len(names):
        found.append(
            f"{plural(num_runs, 'run')} cannot tell {len(names)} constants apart, so that their starts decide: measure "
            "more layouts and sizes"
        )
    if kept := [name for name in influences if name not in names]:
        found.append(f"no run depends on {', '.join(kept)}, left as {before.name} has it: measure runs that do")
    if weak := [name for name in names if influences[name] < WEAK_INFLUENCE]:
        found.append(
            f"the runs hardly depend on {', '.join(weak)}: expect values near the start, whatever was measured"
        )
    shares = {name: getattr(after, name).value / getattr(after, name).start for name in names}
    if far := [
        f"{name} is {share:.2g} times"
        for name, share in shares.items()
        if not 1 / FAR_FROM_START <= share <= FAR_FROM_START
    ]:
        found.append(
            f"{', '.join(far)} its start: check that the runs are of {before.name}, in bf16, and that times are "
            "milliseconds of a whole step"
        )
    return found


def error_lines(names: Sequence[str], files: Sequence[Sequence[Sample]], hardware: Hardware) -> list[str]:
    """One line per file with the errors of its predictions."""
    return [
        errors_line(printable(name), predicted(samples, hardware), samples)
        for name, samples in zip(names, files, strict=True)
    ]


def fit_document(
    after: Hardware,
    names: Sequence[str],
    files: Sequence[Sequence[Sample]],
    held_out: Sequence[Sequence[float]] | None = None,
) -> dict[str, Any]:
    """A fit for programs: the constants, and the errors of the predictions of each file.

    Args:
        after: the fitted hardware.
        names: the name of each file.
        files: its measured runs.
        held_out: the seconds of each run as predicted by a fit to others, if that was asked for.
    """
    found = []
    for number, (name, samples) in enumerate(zip(names, files, strict=True)):
        entry = {"file": printable(name), "runs": len(samples), "fitted": _errors(predicted(samples, after), samples)}
        found.append(entry | ({"left_out": _errors(held_out[number], samples)} if held_out else {}))
    each = constants(after).items()
    return {
        "gpu": after.name,
        "constants": {name: {"start": one.start, "value": one.value} for name, one in each},
        "files": found,
    }


def _errors(seconds: Sequence[float], samples: Sequence[Sample]) -> dict[str, float | None]:
    one = Errors.of(seconds, [sample.seconds for sample in samples])
    spearman = None if isnan(one.spearman) else one.spearman  # JSON has no NaN
    return {"mean_error": one.mean, "largest_error": one.largest, "spearman": spearman}


def errors_line(name: str, seconds: Sequence[float], samples: Sequence[Sample]) -> str:
    """A line with the errors of the predictions of one file.

    Args:
        name: the name of the file.
        seconds: the predicted seconds of each run.
        samples: the measured runs.
    """
    errors = Errors.of(seconds, [sample.seconds for sample in samples])
    return f"{name}: {plural(len(samples), 'run')}, {errors}"
