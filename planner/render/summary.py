"""The prediction in `mimo plan`, in a few lines: whether the plan fits, how long a step takes, and what limits it."""

from __future__ import annotations

from ..base import codes
from ..base.errors import PlanError
from ..cost.memory.memory import excess
from ..cost.predict import predict
from ..cost.prediction import Prediction
from ..cost.simulation.schedule import num_passes
from ..cost.simulation.words import critical_path, duration
from ..cost.timing.bounds import check_prediction
from ..cost.timing.hardware import DEFAULT, Hardware, known_hardware, load_hardware
from ..cost.work.ops import GIB
from ..plan import Plan
from .costs import assumptions
from .style import Style, sentences

# A prediction of this size takes about a fifth of a second; a plan should not wait longer for it.
MAX_PASSES = 50_000
MAX_RANKS = 16_384


def prediction_lines(plan: Plan, style: Style, gpu: str | None = None) -> list[str]:
    """The lines of the section.

    Args:
        plan: a plan whose modules all have models.
        style: how the text is laid out and coloured.
        gpu: the GPU of the prediction; if None, the one that the plan names.

    Raises:
        PlanError: `gpu` is not known. An unknown GPU in the plan is no fault: the default is assumed, with a note.
    """
    try:
        check_prediction(plan)
    except PlanError as error:
        return sentences([f"none: {fault.rule}" for fault in error.faults], style.width)
    if num_passes(plan) > MAX_PASSES or plan.world_size > MAX_RANKS:
        return ["  the plan is large: `mimo predict` takes the time to predict it"]
    hardware, assumed = (load_hardware(gpu), []) if gpu is not None else _hardware(plan)
    prediction = predict(plan, hardware)
    return sentences([*_step(prediction), _memory(prediction, style), *assumed, *assumptions(prediction)], style.width)


def _hardware(plan: Plan) -> tuple[Hardware, list[str]]:
    """The hardware of the GPU that the plan names, and notes about what is assumed instead."""
    if plan.gpu is None:
        return load_hardware(DEFAULT), [f"{DEFAULT} is assumed: the spec names no cluster.gpu"]
    try:
        return load_hardware(plan.gpu), []
    except PlanError as error:
        fault = error.faults[0]
        reasons = {codes.BAD_CHOICE: f"is none of {', '.join(known_hardware())}", codes.UNREADABLE: "cannot be read"}
        reason = reasons.get(fault.code, f"has faults, the first: {fault.rule}")
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
    worst, limit = p.worst, p.memory_limit / GIB
    fits = "fits" if p.fits else style.error("DOES NOT FIT")
    where = f"rank {worst.rank} ({worst.module} stage {worst.stage})"
    remedy = f"; {p.remedies[0]}" if p.remedies else ""
    over = "" if p.fits else f", {excess(-p.spare(worst))} too much"
    return f"memory {fits}: {where} needs most, {worst.total / GIB:.1f} of {limit:g} GiB{over}{remedy}"
