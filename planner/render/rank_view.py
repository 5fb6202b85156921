"""One rank's view as text, and as plain data for JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from ..base.runs import runs_text
from ..layout.ir import EdgeTransfers, Group, RankView, Transfer
from ..plan import Plan
from .style import Style, columns, wrap

_MAX_RANKS_SHOWN = 32
_MAX_BOXES_SHOWN = 6
MAX_TRANSFERS = 4096  # of a lane; no job has as many


def rank_view(plan: Plan, rank: int, style: Style) -> str:
    """The view of one rank as text, ending in a newline."""
    view = plan.view(rank)
    where = f", node {view.node}, local rank {view.local_rank}" if view.node is not None else ""
    lines = [style.bold(f"rank {rank} of {plan.world_size:,}{where}")]
    for title, body in (
        ("Modules", _modules(view)),
        ("Groups, in creation order", _groups(view, style)),
        ("Bridges", _transfers(view)),
    ):
        if body:
            lines += ["", style.bold(title), *body]
    return "\n".join(lines) + "\n"


def _modules(view: RankView) -> list[str]:
    lines = []
    for name, coords in view.coords.items():
        stage, samples = view.stages[name], view.batch_slices[name]
        at = ", ".join(f"{axis} {coord}" for axis, coord in coords.items())
        ends = [text for text, holds in (
            ("first of the module", view.role.is_first_stage(name)),
            ("last of the module", view.role.is_last_stage(name)),
            ("first of the model", stage.is_model_first),
            ("last of the model", stage.is_model_last),
        ) if holds]  # fmt: skip
        lines += [
            f"  {name}: {at}",
            f"    stage {stage.stage} of {stage.num_stages}" + (f" ({', '.join(ends)})" if ends else ""),
            f"    samples {samples.start}:{samples.stop} of each microbatch",
            f"    reads {', '.join(view.data[name]) or 'nothing from the batch'}",
        ]
    place = f"  pipeline: position {view.position} of {view.total_stages}, "
    return [*lines, place + f"{view.num_warmup_microbatches} warm-up microbatches"]


def _groups(view: RankView, style: Style) -> list[str]:
    heads = [["#", "owner", "kind", "index"]]
    heads += [[str(g.creation_index), g.owner, g.kind, str(g.index)] for g in view.groups]
    title, *rows = columns(heads, right=frozenset({0, 3}))
    lines = [style.dim(f"{title}  ranks")]
    margin = max(map(len, rows)) + 2
    for row, group in zip(rows, view.groups, strict=True):
        first, *rest = wrap(_ranks(group), style.width - margin)
        lines += [f"{row.ljust(margin)}{first}", *(" " * margin + line for line in rest)]
    return lines


def _ranks(group: Group) -> list[str]:
    """The ranks of a group, in phrases ready to be wrapped: listed if they are few, else as boxes with a count."""
    size = sum(map(len, group.boxes))
    if size <= _MAX_RANKS_SHOWN:
        return [runs_text(group.ranks)]
    found = [_box(box.start, box.dims) for box in group.boxes[:_MAX_BOXES_SHOWN]]
    found += ["..."] if len(group.boxes) > _MAX_BOXES_SHOWN else []
    return [*(f"{text}," for text in found[:-1]), found[-1], f"({size:,} ranks)"]


def _box(start: int, dims: tuple[tuple[int, int], ...]) -> str:
    """`7`, `0-4095`, `0-4088 by 8`, or the shape of a box with several dims."""
    if len(dims) > 1:
        return f"{start} + " + " + ".join(f"{stride}*(0-{size - 1})" for size, stride in dims)
    size, stride = dims[0] if dims else (1, 1)
    last = start + (size - 1) * stride
    return str(start) if size == 1 else f"{start}-{last}" + (f" by {stride}" if stride > 1 else "")


def _transfers(view: RankView) -> list[str]:
    lines = []
    for edge in view.transfers:
        name = f"{edge.src} -> {edge.dst}"
        lines += [
            f"  {name}: sends lane {t.src_lane}[{t.src_start}:{t.src_start + t.num_samples}] to rank {t.dst_rank}"
            for t in edge.sends[:MAX_TRANSFERS]
        ]
        lines += _left_out(name, "sends", edge.sends)
        lines += [
            f"  {name}: receives lane {t.dst_lane}[{t.dst_start}:{t.dst_start + t.num_samples}] from rank {t.src_rank}"
            for t in edge.receives[:MAX_TRANSFERS]
        ]
        lines += _left_out(name, "receives", edge.receives)
    lines += [f"  {group.owner}: {_role(group)} {' '.join(_ranks(group))}" for group in view.broadcast_groups]
    return lines


def _left_out(name: str, verb: str, transfers: Sequence[Transfer]) -> list[str]:
    rest = len(transfers) - MAX_TRANSFERS
    return [f"  {name}: {verb} {rest:,} more, left out above {MAX_TRANSFERS:,}"] if rest > 0 else []


def _role(group: Group) -> str:
    return "source lane shared with" if group.kind == "bridge_src" else "destination lane shared with"


def view_document(view: RankView) -> dict[str, Any]:
    """The view as plain data. The ranks of a group are boxes: a start, and pairs of [size, stride]."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for g in view.groups:
        boxes = [(box.start, box.dims) for box in g.boxes]
        entry = {"kind": g.kind, "index": g.index, "position": g.creation_index, "boxes": boxes}
        groups.setdefault(g.owner, []).append(entry)
    return {
        "rank": view.rank,
        "node": view.node,
        "local_rank": view.local_rank,
        "layout": view.role.mode.value,
        "modules": {name: _module_document(view, name) for name in view.coords},
        "position": view.position,
        "total_stages": view.total_stages,
        "num_warmup_microbatches": view.num_warmup_microbatches,
        "groups": groups,
        "transfers": [_edge_document(edge) for edge in view.transfers],
    }


def view_lines(plan: Plan, ranks: Iterable[int]) -> Iterator[str]:
    """One line of JSON per rank."""
    encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
    return (encode(view_document(plan.view(rank))) + "\n" for rank in ranks)


def _module_document(view: RankView, name: str) -> dict[str, Any]:
    info, stage, samples = view.role.modules[name], view.stages[name], view.batch_slices[name]
    return {
        "coords": dict(view.coords[name].items()),
        "stage": stage.stage,
        "num_stages": stage.num_stages,
        "is_first_stage": info.is_first_stage,
        "is_last_stage": info.is_last_stage,
        "is_model_first": stage.is_model_first,
        "is_model_last": stage.is_model_last,
        "samples": (samples.start, samples.stop),
        "data": view.data[name],
    }


def _edge_document(edge: EdgeTransfers) -> dict[str, Any]:
    sends, receives = ([attrs.asdict(t) for t in part[:MAX_TRANSFERS]] for part in (edge.sends, edge.receives))
    left_out = {
        f"num_{name}_left_out": len(part) - MAX_TRANSFERS
        for name, part in (("sends", edge.sends), ("receives", edge.receives))
        if len(part) > MAX_TRANSFERS
    }
    return {"src": edge.src, "dst": edge.dst, "sends": sends, "receives": receives, **left_out}
