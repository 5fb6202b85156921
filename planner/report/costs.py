"""Prediction -> what the page shows of it: headline numbers, memory bars, rows of traffic, what to change."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import attrs

from ..cost.bridging import BridgeCost, Crossing
from ..cost.memory import communicator_bytes
from ..cost.prediction import Prediction, StageCost
from ..cost.ranks import rank_memory
from ..cost.schedule import schedule_of
from ..cost.settings import Settings
from ..cost.words import critical_path, duration
from ..plan import Plan
from ..render.costs import assumptions
from .content import Fact, Memory, MemoryBar, MemoryPart, TrafficRow

_GIB = 2**30
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
    "dp_cp": "gradients and weights",
    "expt_dp": "gradients and weights of experts",
    "embd": "gradients of tied embeddings",
    "pp": "hidden states between stages",
}
_WIRES = {"nvlink": "NVLink", "network": "network"}


def facts_of(p: Prediction) -> Iterator[Fact]:
    """Headline numbers. Times only where the schedule comes to an end."""
    worst = p.worst
    needs = f"{worst.total / _GIB:.1f} of {p.memory_limit / _GIB:g} GiB"
    yield Fact("Memory", "fits" if p.fits else "does not fit", f"one {p.hardware.name} per rank")
    yield Fact("Fullest rank", f"rank {worst.rank}", needs)
    if p.timeline is None:
        return
    split = f"{duration(p.pipeline_seconds)} pipeline, {duration(p.update_seconds)} update"
    yield Fact("Step time", duration(p.step_seconds), split)
    yield Fact("Tokens per second", f"{p.tokens_per_second:,.0f}", f"{p.tokens:,} a step")
    yield Fact("MFU", f"{p.mfu:.1%}", f"{p.tflops_per_gpu:.0f} TFLOP/s per GPU")
    if lines := critical_path(p.timeline, most=1):
        where, _, share = lines[0].rpartition(": ")
        yield Fact("Critical path", share.rpartition("(")[2].rstrip(")"), f"is {where}")


def memory_of(plan: Plan, p: Prediction) -> Memory:
    """One bar for all ranks that hold the same stages."""
    names = [module.name for module in plan.modules]
    bars = []
    for unit in schedule_of(plan).units:
        rank = unit.ranks[0]
        memory = attrs.asdict(rank_memory(plan, rank, Settings()))
        parts = [MemoryPart(_PARTS[name], count) for name, count in memory.items()]
        parts.append(MemoryPart("communicators", communicator_bytes(plan, rank)))
        bars.append(
            MemoryBar(
                module=names.index(unit.stages[0].module),
                where=str(unit),
                num_ranks=len(unit.ranks),
                parts=tuple(part for part in parts if part.bytes),
            )
        )
    return Memory(gpu=p.hardware.name, limit=p.memory_limit, bars=tuple(bars))


def traffic_of(p: Prediction) -> Iterator[TrafficRow]:
    """Rows of stages that send alike together, then of every bridge, either way."""
    for _, alike in groupby(p.stages, key=lambda cost: (cost.module, cost.traffic)):
        yield from _of_stages(list(alike))
    for bridge in p.bridges:
        yield from _of_bridge(bridge, p.num_microbatches)


def _of_stages(stages: list[StageCost]) -> Iterator[TrafficRow]:
    first, last = stages[0], stages[-1]
    numbers = f"stages {first.stage}-{last.stage}" if len(stages) > 1 else f"stage {first.stage}"
    for one in first.traffic:
        yield TrafficRow(
            owner=f"{first.module} {numbers}",
            kind=one.kind,
            what=_WHAT.get(one.kind, ""),
            wire=_WIRES[one.link],
            bytes_per_rank=one.num_bytes,
            seconds=one.seconds,
        )


def _of_bridge(bridge: BridgeCost, num_microbatches: int) -> Iterator[TrafficRow]:
    ways: list[tuple[str, Crossing, float]] = [
        ("activations", bridge.forward, bridge.forward_seconds),
        ("gradients", bridge.backward, bridge.backward_seconds),
    ]
    for what, crossing, seconds in ways:
        if not crossing.num_bytes:
            continue
        yield TrafficRow(
            owner=bridge.name.replace("->", " → "),
            kind=f"bridge ({bridge.strategy})",
            what=f"{what}, by the rank that sends most",
            wire="network" if crossing.network_bytes else "NVLink",
            bytes_per_rank=crossing.rank_bytes * num_microbatches,
            seconds=seconds * num_microbatches,
        )


def warnings_of(p: Prediction) -> Iterator[str]:
    """What does not fit, with what would make it fit; what was assumed."""
    if not p.fits:
        worst = p.worst
        text = f"memory of rank {worst.rank} <= {p.memory_limit / _GIB:g} GiB, got {worst.total / _GIB:.1f} GiB"
        words = (f"    {'fix' if index == 0 else 'or'}: {remedy}" for index, remedy in enumerate(p.remedies))
        yield "\n".join([text, *words])
    yield from assumptions(p)
