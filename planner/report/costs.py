"""Prediction -> what the page shows of it: headline numbers, memory bars, traffic, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import attrs

from ..cost.memory.memory import communicator_bytes
from ..cost.memory.peaks import rank_memory
from ..cost.prediction import Prediction, StageCost
from ..cost.simulation.schedule import Stage, schedule_of
from ..cost.simulation.timeline import Timeline
from ..cost.simulation.words import duration
from ..cost.timing.bridges import BridgeCost
from ..cost.work.facts import facts_of
from ..cost.work.ops import GIB
from ..plan import Plan
from ..render.costs import assumptions
from .content import KeyFigure, MemoryBar, MemoryPanel, MemoryPart, Notice, TrafficRow
from .typeset import typeset

_PARTS = {
    "states": "weights, gradients, optimizer",
    "activations": "activations",
    "logits": "logits",
    "buffers": "buffers",
}
_WHAT = {
    "tp": "activations inside layers",
    "cp": "keys and values",
    "ep": "tokens to experts and back",
    "expt_tp": "tokens inside experts",
    "dp_cp": "gradients and weights",
    "expt_dp": "gradients and weights of experts",
    "embd": "gradients of tied embeddings",
    "pp": "hidden states between stages",
}
_WIRES = {"nvlink": "NVLink", "network": "network"}


def figures_of(p: Prediction) -> Iterator[KeyFigure]:
    """Headline numbers, starting with what people ask first. There are times only if the schedule comes to an end."""
    worst = p.worst
    limit = f"{p.memory_limit / GIB:g} GiB"
    yield KeyFigure(
        "Memory", "fits" if p.fits else "does not fit", f"{p.hardware.name}, {limit} each", "good" if p.fits else "bad"
    )
    yield KeyFigure(
        "Fullest rank",
        f"rank {worst.rank}",
        f"{worst.total / GIB:.1f} of {limit}, {worst.module} stage {worst.stage}",
        "" if p.fits else "bad",
    )
    if p.timeline is None:
        yield KeyFigure("Step time", "none", "the schedule stops for good", "bad")
        return
    split = f"{duration(p.pipeline_seconds)} pipeline, {duration(p.update_seconds)} update"
    yield KeyFigure("Step time", typeset(duration(p.step_seconds)), typeset(split))
    yield limit_of(p.timeline)
    yield KeyFigure("Tokens per second", f"{p.tokens_per_second:,.0f}", f"{p.tokens:,} a step")
    yield KeyFigure("MFU", f"{p.mfu:.1%}", f"{p.tflops_per_gpu:.0f} TFLOP/s per GPU")


def limit_of(timeline: Timeline) -> KeyFigure:
    """What takes most of the critical path: a stage if one alone takes half of it, else a module or all transfers."""
    stages: dict[str, float] = {}
    modules: dict[str, float] = {}
    for segment in timeline.path:
        where = segment.where
        module = where.module if isinstance(where, Stage) else "transfers"
        stages[str(where)] = stages.get(str(where), 0.0) + segment.seconds
        modules[module] = modules.get(module, 0.0) + segment.seconds
    total = timeline.makespan or 1.0
    name = max(stages, key=stages.__getitem__)
    seconds = stages[name]
    if seconds < total / 2:
        name = max(modules, key=modules.__getitem__)
        seconds = modules[name]
    return KeyFigure("Limited by", typeset(name), f"{seconds / total:.0%} of the critical path")


def memory_of(plan: Plan, p: Prediction) -> MemoryPanel:
    """Peak memory, with one bar for all ranks that hold the same stages."""
    names = [module.name for module in plan.modules]
    bars, facts = [], facts_of(plan, p.settings)
    for unit in schedule_of(plan).units:
        rank = unit.ranks[0]
        memory = attrs.asdict(rank_memory(plan, rank, p.settings, facts), recurse=False)
        memory["buffers"] += memory.pop("workspace")  # it is too small for a colour of its own
        parts = [MemoryPart(_PARTS[name], count) for name, count in memory.items()]
        parts.append(MemoryPart("communicators", communicator_bytes(plan, rank)))
        bars.append(
            MemoryBar(
                module=names.index(unit.stages[0].module),
                where=str(unit),
                num_ranks=len(unit.ranks),
                parts=tuple(parts),
            )
        )
    return MemoryPanel(gpu=p.hardware.name, limit=p.memory_limit, bars=tuple(bars))


def traffic_of(p: Prediction) -> Iterator[TrafficRow]:
    """Traffic of the stages, one row for consecutive stages that send the same, then of every bridge, both ways."""
    for _, alike in groupby(p.stages, key=lambda cost: (cost.module, cost.traffic)):
        yield from _stage_rows(list(alike))
    for bridge in p.bridges:
        yield from _bridge_rows(bridge, p.num_microbatches)


def _stage_rows(stages: list[StageCost]) -> Iterator[TrafficRow]:
    first, last = stages[0], stages[-1]
    numbers = f"stages {first.stage}-{last.stage}" if len(stages) > 1 else f"stage {first.stage}"
    for one in first.traffic:
        yield TrafficRow(
            owner=f"{first.module} {numbers}",
            kind=one.kind,
            what=_WHAT[one.kind],
            wire=_WIRES[one.link],
            bytes_per_rank=one.num_bytes,
            seconds=one.seconds,
        )


def _bridge_rows(bridge: BridgeCost, num_microbatches: int) -> Iterator[TrafficRow]:
    for way, crossing, seconds in bridge.ways:
        if not crossing.num_bytes:
            continue
        yield TrafficRow(
            owner=typeset(bridge.name),
            kind=f"bridge ({bridge.strategy})",
            what=f"{way.tensors}, by the rank that sends most",
            wire="network" if crossing.network_bytes else "NVLink",
            bytes_per_rank=crossing.rank_bytes * num_microbatches,
            seconds=seconds * num_microbatches,
        )


def notices_of(p: Prediction) -> Iterator[Notice]:
    """What keeps the plan from running (a schedule that stops, memory that does not fit), then what was assumed."""
    if p.deadlock:
        yield Notice(f"no step time: {p.deadlock}", is_problem=True)
    if not p.fits:
        worst, limit = p.worst, p.memory_limit / GIB
        where = f"memory of rank {worst.rank} ({worst.module} stage {worst.stage})"
        text = f"{where} <= {limit:g} GiB, got {worst.total / GIB:.1f} GiB"
        words = (f"    {'fix' if index == 0 else 'or'}: {remedy}" for index, remedy in enumerate(p.remedies))
        yield Notice("\n".join([text, *words]), is_problem=True)
    yield from map(Notice, assumptions(p))
