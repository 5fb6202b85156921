"""Layouts near a plan's own that could be faster: each is a spec with little changed, and the words for the change.

Only layouts are changed, never what is trained: samples per step, models and dtypes stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import lcm
from typing import Any

import attrs

from ..base.axes import Axis
from ..base.errors import Path
from ..base.frozen import frozen
from ..cost.timing.group_spans import gpus_per_node
from ..layout.ir import ModuleLayout
from ..plan import Plan
from ..spec.sections import Parallel
from ..spec.spec import Spec

_LARGER = 8  # times the micro size of a spec is the largest that is tried


Sizes = dict[str, Any]
"""Keys of `parallel:` and their values."""


@frozen
class Change:
    """A spec with little changed.

    Attributes:
        words: what to write into the spec for it.
        spec: the spec with it.
    """

    words: str
    spec: Spec


def faster_changes(plan: Plan) -> Iterator[Change]:
    """The changes to try, each of them with other microbatches as well. They may have faults, or fit no GPU."""
    spec = plan.to_spec()
    for words, changed in _layouts(plan, spec):
        for size in _micro_sizes(changed):
            if size == spec.batch.micro_size and not words:
                continue
            smaller = attrs.evolve(changed, batch=attrs.evolve(changed.batch, micro_size=size))
            resized = [f"batch.micro_size: {size}"] if size != spec.batch.micro_size else []
            yield Change(" with ".join([*([words] if words else []), *resized]), smaller)


def _micro_sizes(spec: Spec) -> Iterator[int]:
    """The micro size of a spec by powers of two, smaller and larger, whole for every lane and every step."""
    lanes = lcm(*(one.parallel.dp or 1 for one in spec.modules.values() if one.parallel))
    size = -(-spec.batch.micro_size // lanes) * lanes
    while size % 2 == 0 and size // 2 % lanes == 0:
        size //= 2
    while size <= _LARGER * spec.batch.micro_size:
        if spec.batch.global_size % size == 0:
            yield size
        size *= 2


def _layouts(plan: Plan, spec: Spec) -> Iterator[tuple[str, Spec]]:
    """The same layout, then all modules on all ranks, then fewer stages of a module on the same ranks."""
    yield "", spec
    if len(plan.modules) > 1 and plan.layout is not ModuleLayout.COLOCATED:
        yield from _together(plan, spec)
    staged = {module.name: module for module in plan.modules if module.num_stages > 1}
    for name, module in staged.items():
        tp, pp, dp = (module.grid.size_of(axis) for axis in (Axis.TP, Axis.PP, Axis.DP))
        if pp % 2 == 0:
            half = {"pp": pp // 2, "dp": 2 * dp}
            yield _words(plan, {name: half}), _with(spec, {name: half})
            if 2 * tp <= gpus_per_node(plan):
                half = {"pp": pp // 2, "tp": 2 * tp} | _split_sequence(plan, name, 2 * tp)
                yield _words(plan, {name: half}), _with(spec, {name: half})


def _together(plan: Plan, spec: Spec) -> Iterator[tuple[str, Spec]]:
    """All modules on all ranks: as many lanes as that makes, with the stages that there are, or without them."""
    free = _without_offsets(spec)
    for flat in (False, True) if any(module.num_stages > 1 for module in plan.modules) else (False,):
        sizes: dict[str, Sizes] = {}
        for module in plan.modules:
            tp, pp, cp = (module.grid.size_of(axis) for axis in (Axis.TP, Axis.PP, Axis.CP))
            if flat and pp > 1:
                tp, pp = (tp * pp if tp * pp <= gpus_per_node(plan) else tp), 1
            if plan.world_size % (tp * pp * cp):
                break
            sizes[module.name] = {"tp": tp, "pp": pp, "dp": plan.world_size // (tp * pp * cp)}
            sizes[module.name] |= _split_sequence(plan, module.name, tp)
        else:
            written = {name: _differs(plan, name, one) for name, one in sizes.items()}
            # Offsets say where ranks are, so that a placement has no effect beside them.
            words = f"placement: colocated{' without rank_offset' if has_written_offsets(plan) else ''}"
            if changed := {name: one for name, one in written.items() if one}:
                words += f" with {_words(plan, changed)}"
            yield words, attrs.evolve(_with(free, sizes), placement="colocated")


def has_written_offsets(plan: Plan) -> bool:
    """Whether the spec that a plan was compiled from, if it is at hand, says where modules begin."""
    return any(path[-1:] == ("rank_offset",) for path in _written(plan))


def _split_sequence(plan: Plan, name: str, tp: int) -> Sizes:
    """Sequence parallelism for language with a larger tp: without it, each rank would normalize all tokens."""
    module = plan.module(name)
    if module.is_language and tp > module.grid.size_of(Axis.TP) and not module.sequence_parallel:
        return {"sequence_parallel": True}
    return {}


def _differs(plan: Plan, name: str, sizes: Sizes) -> Sizes:
    grid = plan.module(name).grid
    return {key: size for key, size in sizes.items() if size is True or grid.size_of(Axis(key)) != size}


def _words(plan: Plan, sizes: Mapping[str, Sizes]) -> str:
    """What to write. Layers that are listed for each stage are those of another number of stages."""
    listed = {path[1] for path in _written(plan) if len(path) == 3 and path[2] == "stages"}
    return " and ".join(
        f"{' '.join(f'{key}: {str(size).lower()}' for key, size in one.items())} on {name}"
        f"{' without stages' if 'pp' in one and name in listed else ''}"
        for name, one in sizes.items()
    )


def _written(plan: Plan) -> list[Path]:
    """The paths of the keys in the spec that the plan was compiled from; none if it is not at hand."""
    return [path for path, *_ in plan.source.entries] if plan.source else []


def _without_offsets(spec: Spec) -> Spec:
    return _with(spec, {name: {"rank_offset": None} for name in spec.modules})


def _with(spec: Spec, sizes: Mapping[str, Sizes]) -> Spec:
    """The spec with other parallel sizes. The layers of another number of stages are spread anew."""
    modules = dict(spec.modules)
    for name, changes in sizes.items():
        before = modules[name].parallel or Parallel()
        after = attrs.evolve(before, **changes)
        stages = modules[name].stages if after.pp == before.pp else None
        modules[name] = attrs.evolve(modules[name], parallel=after, stages=stages)
    return attrs.evolve(spec, modules=modules)
