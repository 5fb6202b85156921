"""What differs between two plans, in words, and which ranks it concerns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from .base.runs import runs_text
from .cost.prediction import Prediction
from .cost.simulation.words import duration
from .cost.work.ops import GIB
from .document import resolved_spec
from .layout.ir import RankView
from .plan import Plan
from .render.style import plural
from .spec.fields import Record, fields_of, show
from .spec.sections import Module, Parallel
from .spec.spec import Spec

MAX_COMPARED = 65_536  # ranks; two views each: above this, modules are compared whole

_MAX_RUNS = 12


def differences(before: Plan, after: Plan) -> list[str]:
    """One sentence per difference, then the ranks that they concern; empty if the plans are equal."""
    if before == after:
        return []
    one, other = resolved_spec(before), resolved_spec(after)
    lines, renamed = _world(before, after), _renamed(one, other)
    for name in dict.fromkeys([*one.modules, *other.modules]):
        if name not in renamed.values():
            lines += _module(name, renamed.get(name, name), one, other, before, after)
    lines += _edges(before, after, renamed)
    for section in ("batch", "training", "cluster"):
        lines += _fields(section, getattr(one, section), getattr(other, section))
    now = [renamed.get(name, name) for name in one.modules]
    if now != list(other.modules) and set(now) == set(other.modules):
        lines.append(f"modules: order {', '.join(now)} -> {', '.join(other.modules)}")
    return [*lines, _touched(before, after)]


def _renamed(one: Spec, other: Spec) -> dict[str, str]:
    """The modules that have another name, by the former one: those that are equal, then those of the same model."""
    found: dict[str, str] = {}
    for is_alike in (_is_equal, _is_like):
        for name in (name for name in one.modules if name not in other.modules and name not in found):
            come = (new for new in other.modules if new not in one.modules and new not in found.values())
            alike = next((new for new in come if is_alike(one.modules[name], other.modules[new])), None)
            if alike:
                found[name] = alike
    return found


def _is_equal(module: Module, other: Module) -> bool:
    """Whether two modules are equal but for the ranks that they begin at."""
    begin = [attrs.evolve(each.parallel or Parallel(), rank_offset=None) for each in (module, other)]
    return begin[0] == begin[1] and attrs.evolve(module, parallel=None) == attrs.evolve(other, parallel=None)


def _is_like(module: Module, other: Module) -> bool:
    """Whether two modules train the same model, if they have one, and hand on the same."""
    return module.model is not None and (module.model, module.output) == (other.model, other.output)


def _world(before: Plan, after: Plan) -> list[str]:
    lines = []
    if before.world_size != after.world_size:
        lines.append(f"world: {before.world_size:,} -> {after.world_size:,} ranks")
    if before.layout != after.layout:
        lines.append(f"layout: {before.layout.value} -> {after.layout.value}")
    return lines


def _module(name: str, now: str, one: Spec, other: Spec, before: Plan, after: Plan) -> list[str]:
    if now not in other.modules:
        return [f"{name}: removed, was {before.module(name).grid}"]
    if name not in one.modules:
        return [f"{name}: added, {after.module(name).grid}"]
    lines = _fields(now, one.modules[name], other.modules[now])
    return lines if now == name else [f"{name}: renamed {now}", *lines]


def _fields(where: str, one: Any, other: Any) -> list[str]:
    """`where: key old -> new` for every field that differs; records are compared field by field."""
    if one == other:
        return []
    if one is None or other is None:
        parts = ["none" if part is None else show(Record(type(part)).encode(part)) for part in (one, other)]
        return [f"{where}: {' -> '.join(parts)}"]
    lines = []
    for name, _, rule in fields_of(type(one)):
        old, new = getattr(one, name), getattr(other, name)
        inner = where if isinstance(one, Module) and name == "parallel" else f"{where}.{name}"
        if hasattr(old, "__attrs_attrs__") or hasattr(new, "__attrs_attrs__"):
            lines += _fields(inner, old, new)
        elif old != new:
            shown = [_value(None if part is None else rule.encode(part)) for part in (old, new)]
            lines.append(f"{where}: {name} {shown[0]} -> {shown[1]}")
    return lines


def _value(value: Any) -> str:
    """A value as it would stand in a spec."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return value if isinstance(value, str) else show(value)


def _edges(before: Plan, after: Plan, renamed: Mapping[str, str]) -> list[str]:
    lines = []
    kept = {(renamed.get(src, src), renamed.get(dst, dst)): (src, dst) for src, dst in before.edges}
    for now, edge in kept.items():
        if now not in after.edges:
            lines.append(f"bridge {before.bridge(*edge).name}: removed")
    for bridge in after.bridges:
        if (bridge.src, bridge.dst) not in kept:
            lines.append(f"bridge {bridge.name}: added, {plural(len(bridge.transfers), 'transfer')}")
            continue
        old = before.bridge(*kept[bridge.src, bridge.dst])
        if old.strategy != bridge.strategy:
            lines.append(f"bridge {bridge.name}: strategy {old.strategy} -> {bridge.strategy}")
        lanes = [f"{len(b.src_broadcast)} to {len(b.dst_broadcast)} lanes" for b in (old, bridge)]
        if lanes[0] != lanes[1]:
            lines.append(f"bridge {bridge.name}: {lanes[0]} -> {lanes[1]}")
    return lines


def cost_changes(before: Prediction, after: Prediction) -> list[str]:
    """What both plans are predicted to take, one sentence each."""
    pairs = (
        ("step time", *(duration(p.step_seconds) if p.timeline else "none" for p in (before, after))),
        ("tokens/s", *(f"{p.tokens_per_second:,.0f}" if p.timeline else "none" for p in (before, after))),
        ("bubble", *(f"{p.bubble:.1%}" if p.timeline else "none" for p in (before, after))),
        ("fullest rank", *(f"{p.worst.total / GIB:.1f} of {p.memory_limit / GIB:g} GiB" for p in (before, after))),
    )
    return [f"predicted: {what} {one} -> {other}" for what, one, other in pairs if one != other]


def _touched(before: Plan, after: Plan) -> str:
    """The ranks whose view, model or training settings differ."""
    world = max(before.world_size, after.world_size)
    everyone = f"touches every rank (0-{world - 1})"
    if before.training != after.training or before.batch_sizes != after.batch_sizes:
        return f"{everyone}: batch or training changed"
    if world > MAX_COMPARED:
        changed = [m for m in after.modules if m not in before.modules] + [
            m for m in before.modules if m not in after.modules
        ]
        whole = ", ".join(dict.fromkeys(f"{m.name} ({m.ranks[0]}-{m.ranks[-1]})" for m in changed))
        return f"touches the ranks of {whole or 'the changed bridges'} (single ranks: up to {MAX_COMPARED:,})"
    ranks = [rank for rank in range(world) if _changed(before, after, rank)]
    if len(ranks) == world:
        return everyone
    text = runs_text(ranks)
    text = text if text.count(",") <= _MAX_RUNS else f"{ranks[0]}-{ranks[-1]}, in {text.count(',') + 1:,} runs"
    return f"touches {len(ranks):,} of {world:,} ranks: {text}" if ranks else "touches no rank"


def _changed(before: Plan, after: Plan, rank: int) -> bool:
    if rank >= min(before.world_size, after.world_size):
        return True
    one, other = before.view(rank), after.view(rank)
    if _comparable(one) != _comparable(other):
        return True
    return any(before.module(name) != after.module(name) for name in one.coords)


def _comparable(view: RankView) -> tuple[Any, ...]:
    """All of a view except the creation indices of its groups, which shift with anything created before them."""
    groups = tuple((group.owner, group.kind, group.index, group.boxes) for group in view.groups)
    return (
        view.role, view.coords, groups, view.transfers, view.stages, view.position, view.total_stages,
        view.data, view.batch_slices, view.node, view.local_rank,
    )  # fmt: skip
