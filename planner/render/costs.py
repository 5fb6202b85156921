"""What `mimo predict SPEC` prints: the step, then time, memory and traffic per module and stage, at 80 columns."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import attrs

from ..base.printable import printable
from ..cost.prediction import Prediction, StageCost
from ..cost.simulation.words import duration
from ..cost.timing.bridges import BridgeCost
from ..cost.timing.group_spans import DEFAULT_PER_NODE
from ..cost.work.ops import GIB
from .style import Style, columns, plural, sentences, shorten


def costs_text(prediction: Prediction, name: str, style: Style) -> str:
    """The prediction as text that ends in a newline.

    Args:
        prediction: the prediction of a plan in which at least one module has a model.
        name: the name of the spec's file.
        style: how the text is laid out and coloured.
    """
    sections = [
        ("Step", _step(prediction, style)),
        ("Critical path of the pipeline", _path(prediction, style)),
        ("Time of one microbatch, ms", _time(prediction, style)),
        ("Memory of one rank, GiB", _memory(prediction, style)),
        ("Traffic that one rank sends in a step", _traffic(prediction, style)),
    ]
    where = f"{plural(prediction.world_size, 'rank')} of {prediction.hardware.name}"
    lines = [style.bold(shorten(f"{printable(name)}: {where}", style.width))]
    for title, body in sections:
        if body:
            lines += ["", style.bold(title), *body]
    return "\n".join(lines) + "\n"


def _step(p: Prediction, style: Style) -> list[str]:
    fits = "fits" if p.fits else "DOES NOT FIT"
    times = [
        [
            "step time",
            duration(p.step_seconds),
            f"pipeline {duration(p.pipeline_seconds)}, update {duration(p.update_seconds)}",
        ],
        ["bubble", f"{p.bubble:.1%}", "of the pipeline's time, average rank"],
        ["tokens/s", f"{p.tokens_per_second:,.0f}", f"{p.tokens:,} tokens a step"],
        ["TFLOP/s per GPU", f"{p.tflops_per_gpu:.1f}", f"MFU {p.mfu:.1%}"],
    ]
    lines = columns([*(times if p.timeline else []), ["memory", fits, f"{p.hardware.memory_gib.value:g} GiB per GPU"]])
    return lines + sentences(notes(p), style.width)


def notes(p: Prediction) -> list[str]:
    """Sentences that a reader must know beside the numbers."""
    return [*([f"no step time: {p.deadlock}"] if p.deadlock else []), *assumptions(p)]


def assumptions(p: Prediction) -> list[str]:
    """Sentences about what was assumed because the spec does not say it."""
    found = []
    if not p.gpu_given:
        found.append(f"{p.hardware.name} is assumed: give `cluster: {{gpu: NAME}}` or --gpu")
    if not p.nodes_given and p.world_size > DEFAULT_PER_NODE:
        found.append(f"nodes of {DEFAULT_PER_NODE} GPUs are assumed: give `cluster: {{gpus_per_node: N}}`")
    if p.dtype == "fp32":
        found.append("kernels are timed as in bf16: those in fp32 take longer")
    if p.unsized and len(p.unsized) < len({stage.module for stage in p.stages}):
        found.append(f"no model is given for {', '.join(p.unsized)}, which counts as zero")
    return found


def _path(p: Prediction, style: Style) -> list[str]:
    """Where the time goes, and which stages wait longest."""
    return sentences((*p.critical_path, *p.waits), style.width)


def _alike(costs: tuple[StageCost, ...]) -> list[tuple[list[StageCost], str]]:
    """Neighbouring stages that cost the same, in one list, with their label: `language 1-2`."""
    found = []
    for _, group in groupby(costs, key=lambda cost: attrs.evolve(cost, stage=0, first_rank=0)):
        stages = list(group)
        first, last = stages[0], stages[-1]
        numbers = f"{first.stage}-{last.stage}" if len(stages) > 1 else str(first.stage)
        found.append((stages, f"{first.module} {numbers}"))
    return found


def _time(p: Prediction, style: Style) -> list[str]:
    rows = [["stage", "ranks", "layers", "forward", "backward", "TFLOP/s", "update"]]
    for stages, label in _alike(p.stages):
        cost = stages[0]
        seconds = cost.forward_seconds + cost.backward_seconds
        rate = (cost.forward_flops + cost.backward_flops) / seconds / 1e12 if seconds else 0.0
        rows.append(
            [
                label,
                f"{cost.num_ranks * len(stages):,}",
                str(cost.num_layers),
                f"{1e3 * cost.forward_seconds:.2f}",
                f"{1e3 * cost.backward_seconds:.2f}",
                f"{rate:.0f}",
                f"{1e3 * cost.update_seconds:.1f}",
            ]
        )
    return _table(rows, style)


def _memory(p: Prediction, style: Style) -> list[str]:
    rows = [["stage", "parameters", "states", "activations", "logits", "buffers", "total"]]
    for stages, label in _alike(p.stages):
        cost = stages[0]
        memory = cost.memory
        parts = (memory.states, memory.activations, memory.logits, memory.buffers, memory.total)
        rows.append([label, f"{cost.parameters.total:,}", *(f"{part / GIB:.2f}" for part in parts)])
    return _table(rows, style) + _peaks(p, style) + sentences(p.remedies, style.width, mark="- ")


def _peaks(p: Prediction, style: Style) -> list[str]:
    """The fullest rank of each module: its stages of all modules, and the memory that belongs to no module."""
    rows = [["peak of", "rank", "total", "to spare", "its stages", "workspace", "communicators"]]
    for peak in p.peaks:
        workspace = peak.memory.workspace
        parts = (peak.total, p.spare(peak), peak.memory.total - workspace, workspace, peak.communicators)
        rows.append([peak.module, str(peak.rank), *(f"{part / GIB:.2f}" for part in parts)])
    title, *lines = _table(rows, style)
    return [
        title,
        *(line if p.spare(peak) >= 0 else style.error(line) for line, peak in zip(lines, p.peaks, strict=True)),
    ]


def _traffic(p: Prediction, style: Style) -> list[str]:
    rows = [["stage", "group", "collectives", "GiB", "link"]]
    for stages, label in _alike(p.stages):
        for i, one in enumerate(stages[0].traffic):
            rows.append(
                [label if i == 0 else "", one.kind, f"{one.collectives:,}", f"{one.num_bytes / GIB:.2f}", one.link]
            )
    lines = _table(rows, style, right=frozenset({2, 3})) if len(rows) > 1 else []
    if p.bridges:
        bridges = [["bridge, one microbatch", "strategy", "way", "MiB", "between nodes", "ms"]]
        for bridge in p.bridges:
            names = [bridge.name, bridge.strategy.value]
            for way, crossing, seconds in bridge.ways:
                sizes = (crossing.num_bytes / 2**20, crossing.network_bytes / 2**20)
                bridges.append([*names, way, *(f"{size:,.1f}" for size in sizes), f"{1e3 * seconds:.2f}"])
                names = ["", ""]
        lines += _table(bridges, style, right=frozenset({3, 4, 5}))
    return lines


def _table(rows: list[list[str]], style: Style, right: frozenset[int] | None = None) -> list[str]:
    title, *lines = columns(rows, right=right if right is not None else frozenset(range(1, len(rows[0]))))
    return [style.dim(title), *(shorten(line, style.width) for line in lines)]


def costs_document(prediction: Prediction) -> dict[str, Any]:
    """The prediction as plain data, in seconds, bytes and FLOPs, with sums beside their parts.

    If the schedule deadlocks there is no step, and everything that describes a step is null.
    """
    p = prediction
    times = {
        "step_seconds": p.step_seconds,
        "pipeline_seconds": p.pipeline_seconds,
        "bubble": p.bubble,
        "tokens_per_second": p.tokens_per_second,
        "tflops_per_gpu": p.tflops_per_gpu,
        "mfu": p.mfu,
    }
    return {
        "gpu": p.hardware.name,
        "gpu_given": p.gpu_given,
        "world_size": p.world_size,
        "notes": notes(p),
        "unsized": list(p.unsized),
        **(times if p.timeline else dict.fromkeys(times)),
        "update_seconds": p.update_seconds,
        "fits": p.fits,
        "memory_limit_bytes": p.memory_limit,
        "peaks": [{**attrs.asdict(peak), "total": peak.total} for peak in p.peaks],
        "remedies": list(p.remedies),
        "stages": [_stage_document(cost) for cost in p.stages],
        "bridges": [_bridge_document(bridge) for bridge in p.bridges],
        "units": _units(p),
        "critical_path": list(p.critical_path),
        "waits": list(p.waits),
    }


def _bridge_document(bridge: BridgeCost) -> dict[str, Any]:
    document: dict[str, Any] = {"name": bridge.name, "strategy": bridge.strategy.value}
    for way, crossing, seconds in bridge.ways:
        document[way.value] = {
            "num_bytes": crossing.num_bytes,
            "network_bytes": crossing.network_bytes,
            "rank_bytes": crossing.rank_bytes,
            "seconds": seconds,
        }
    return document


def _units(p: Prediction) -> list[dict[str, Any]]:
    """The units of the simulation (ranks that hold the same stages): how busy they are, what they hold and wait for."""
    timeline = p.timeline
    if timeline is None:
        return []
    return [
        {
            "stages": [str(stage) for stage in unit.stages],
            "first_rank": unit.ranks[0],
            "num_ranks": len(unit.ranks),
            "busy_seconds": timeline.busy[index],
            "in_flight": timeline.in_flight[index],
            "waits": timeline.waits(index),
        }
        for index, unit in enumerate(timeline.schedule.units)
    ]


def _stage_document(cost: StageCost) -> dict[str, Any]:
    document = attrs.asdict(cost)
    document["parameters"]["total"] = cost.parameters.total
    document["memory"]["total"] = cost.memory.total
    return document
