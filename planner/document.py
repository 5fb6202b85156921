"""Plans as JSON, written: versioned and canonical. plan_file.py reads them.

A document holds the spec with every choice made, and beside it what follows from it for readers that are not
Python: grids, kinds of groups with counts, shapes and strides (never lists of ranks), bridges, the batch. The
digest is the sha256 of the canonical form of everything else. Nothing here needs the compiler.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from .base.frozenmap import FrozenMap
from .layout.batch import BatchContract
from .layout.dag import Edges
from .layout.groups import Family
from .layout.ir import Bridge, ModuleLayout, ModulePlan
from .layout.stage_order import Pipeline
from .spec.sections import Batch, Cluster, Module, Parallel, Training
from .spec.spec import SPEC_TYPE, Spec

try:  # hashlib loads OpenSSL, which takes longer than a digest; the standard library's random.py does the same
    from _sha2 import sha256  # type: ignore[import-not-found]
except ImportError:
    from hashlib import sha256

PLAN_VERSION = 1
VERSION_KEY = "mimo_plan"


class Compiled(Protocol):
    """What a document needs of a plan; the class itself lives above this file."""

    @property
    def modules(self) -> tuple[ModulePlan, ...]: ...
    @property
    def edges(self) -> Edges: ...
    @property
    def batch_sizes(self) -> Batch: ...
    @property
    def training(self) -> Training: ...
    @property
    def cluster(self) -> Cluster | None: ...
    @property
    def world_size(self) -> int: ...
    @property
    def layout(self) -> ModuleLayout: ...
    @property
    def batch(self) -> BatchContract: ...
    @property
    def bridges(self) -> tuple[Bridge, ...]: ...
    @property
    def families_by_owner(self) -> Mapping[str, tuple[Family, ...]]: ...
    @property
    def num_groups(self) -> int: ...
    @property
    def pipeline(self) -> Pipeline: ...


def resolved_spec(plan: Compiled) -> Spec:
    """The spec that a plan follows from, with every choice made."""
    return Spec(
        cluster=plan.cluster,
        batch=plan.batch_sizes,
        modules=FrozenMap((module.name, _resolved_module(module)) for module in plan.modules),
        topology=FrozenMap(
            (module.name, tuple(dst for src, dst in plan.edges if src == module.name)) for module in plan.modules
        ),
        training=plan.training,
    )


def _resolved_module(module: ModulePlan) -> Module:
    grid = module.grid
    sizes = {str(axis): size for axis, size in zip(grid.order, grid.sizes, strict=True)}
    parallel = Parallel(
        **sizes,
        ep=grid.ep,
        expt_tp=grid.expt_tp,
        rank_offset=grid.rank_offset,
        order=grid.order,
        sequence_parallel=module.sequence_parallel,
    )
    return Module(
        parallel=parallel,
        model=module.model,
        output=module.output,
        special_token_id=module.special_token_id,
        freeze=module.freeze,
        recompute=module.recompute,
        stages=module.stages,
    )


def document(plan: Compiled) -> dict[str, Any]:
    """The plan as plain data, without its digest."""
    return {
        VERSION_KEY: PLAN_VERSION,
        "world_size": plan.world_size,
        "layout": plan.layout.value,
        "spec": SPEC_TYPE.encode(resolved_spec(plan)),
        "modules": [_module_document(plan, module) for module in plan.modules],
        "edges": [_edge_document(plan, index) for index in range(len(plan.edges))],
        "batch": {
            "num_microbatches": plan.batch.num_microbatches,
            "samples_per_lane": dict(plan.batch.samples_per_lane),
        },
        "total_stages": plan.pipeline.num_stages,
        "num_groups": plan.num_groups,
    }


def _module_document(plan: Compiled, module: ModulePlan) -> dict[str, Any]:
    grid = module.grid
    return {
        "name": module.name,
        "rank_offset": grid.rank_offset,
        "size": grid.size,
        "order": [str(axis) for axis in grid.order],
        "sizes": list(grid.sizes),
        "expert_axes": [str(axis) for axis, _ in grid.expert.axes],
        "expert_sizes": [size for _, size in grid.expert.axes],
        "groups": [_family_document(family) for family in plan.families_by_owner[module.name]],
    }


def _edge_document(plan: Compiled, index: int) -> dict[str, Any]:
    bridge = plan.bridges[index]
    return {
        "src": bridge.src,
        "dst": bridge.dst,
        "strategy": str(bridge.strategy),
        "num_transfers": len(bridge.transfers),
        "groups": [_family_document(family) for family in plan.families_by_owner[bridge.name]],
    }


def _family_document(family: Family) -> dict[str, Any]:
    """The kind of the groups, their place in the creation order and their number; their form if they are all alike.

    The form is the box of the first group, from which the others differ in their start only.
    """
    found: dict[str, Any] = {"kind": str(family.kind), "first_position": family.base, "count": len(family)}
    if translates := family.sets.translates():
        dims, starts = translates
        found |= {
            "start": starts.start,
            "shape": [size for size, _ in dims],
            "strides": [stride for _, stride in dims],
        }
    return found


def canonical(value: Any) -> str:
    """One text per value, on any machine and Python: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of_fields(fields: Mapping[str, Any]) -> str:
    return str(sha256(canonical(fields).encode("ascii")).hexdigest())


def digest_of(plan: Compiled) -> str:
    """The plan's digest."""
    return digest_of_fields(document(plan))


def dumps(plan: Compiled) -> str:
    """The plan's document as indented JSON, ending in a newline."""
    fields = document(plan)
    return (
        json.dumps({**fields, "digest": digest_of_fields(fields)}, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
    )
