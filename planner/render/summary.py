"""The prediction's few lines in `mimo plan`: does it fit, how long is a step, where does the time go."""

from __future__ import annotations

from .. import codes
from ..cost.hardware import DEFAULT, Hardware, load_hardware
from ..cost.predict import predict
from ..cost.prediction import Prediction
from ..cost.schedule import num_passes
from ..cost.words import critical_path, duration, excess
from ..errors import PlanError
from ..plan import Plan
from .costs import assumptions
from .style import Style, wrap

# About a fifth of a second; a plan is not to wait longer for it.
MAX_PASSES = 50_000
MAX_RANKS = 16_384
_GIB = 2**30


def prediction_lines(plan: Plan, style: Style) -> list[str]:
    """The lines of the section, of a plan whose modules all have models. An unknown GPU is no fault of a plan."""
    if num_passes(plan) > MAX_PASSES or plan.world_size > MAX_RANKS:
        return ["  large: `mimo predict` takes its time for it"]
    hardware, assumed = _hardware(plan)
    prediction = predict(plan, hardware)
    return _wrapped([*_step(prediction), _memory(prediction, style), *assumed, *assumptions(prediction)], style)


def _wrapped(sentences: list[str], style: Style) -> list[str]:
    lines = []
    for sentence in sentences:
        first, *rest = wrap(sentence.split(), style.width - 4)
        lines += [f"  {first}", *(f"    {line}" for line in rest)]
    return lines


def _hardware(plan: Plan) -> tuple[Hardware, list[str]]:
    """The cluster's GPU, and what is to be said of it."""
    if plan.gpu is None:
        return load_hardware(DEFAULT), [f"{DEFAULT} is assumed: the spec names no cluster.gpu"]
    try:
        return load_hardware(plan.gpu), []
    except PlanError as error:
        fault = error.faults[0]
        is_unknown = fault.code in (codes.BAD_CHOICE, codes.UNREADABLE)
        reason = "is not known" if is_unknown else f"has faults, the first: {fault.rule}"
        return load_hardware(DEFAULT), [f"{DEFAULT} is assumed: cluster.gpu {plan.gpu!r} {reason}"]


def _step(p: Prediction) -> list[str]:
    if p.timeline is None:
        return [f"no step time: {p.deadlock}"]
    return [
        f"step on {p.hardware.name}: {duration(p.step_seconds)}, {p.tokens_per_second:,.0f} tokens/s, "
        f"MFU {p.mfu:.1%}, bubble {p.bubble:.1%}",
        f"most of its critical path: {critical_path(p.timeline, most=1)[0]}",
    ]


def _memory(p: Prediction, style: Style) -> str:
    worst, limit = p.worst, p.memory_limit / _GIB
    fits = "fits" if p.fits else style.error("DOES NOT FIT")
    where = f"rank {worst.rank} ({worst.module} stage {worst.stage})"
    remedy = f"; {p.remedies[0]}" if p.remedies else ""
    over = "" if p.fits else f", {excess(-p.spare(worst))} too much"
    return f"memory {fits}: {where} needs most, {worst.total / _GIB:.3g} of {limit:g} GiB{over}{remedy}"
