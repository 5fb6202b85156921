"""Plans as JSON: versioned, canonical, and refused when edited.

A document holds the spec with every choice made, and beside it what follows from it for readers that are not
Python: grids, kinds of groups with counts, shapes and strides (never lists of ranks), bridges, the batch.
Reading compiles the spec again and compares the rest, so that a document cannot contradict itself; the
digest, the sha256 of the canonical form of everything else, catches every other change.
"""

from __future__ import annotations

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any

from .base import codes
from .base.errors import Fault, Faults, Mark, Path, PlanError, Source
from .base.frozenmap import FrozenMap
from .layout.groups import Family
from .layout.ir import ModulePlan
from .passes.compile import compile_spec
from .plan import Plan
from .spec.fields import INVALID, show
from .spec.sections import Module, Parallel
from .spec.spec import SPEC_TYPE, Spec

PLAN_VERSION = 1
_VERSION_KEY = "mimo_plan"
MAX_BYTES = 64 * 2**20
_FILE = "<plan>"


def resolved_spec(plan: Plan) -> Spec:
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


def document(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, without its digest."""
    return {
        _VERSION_KEY: PLAN_VERSION,
        "world_size": plan.world_size,
        "layout": plan.layout.value,
        "spec": SPEC_TYPE.encode(resolved_spec(plan)),
        "modules": [_module_document(plan, module) for module in plan.modules],
        "edges": [_edge_document(plan, index) for index in range(len(plan.edges))],
        "batch": {
            "num_microbatches": plan.batch.num_microbatches,
            "samples_per_lane": dict(plan.batch.samples_per_lane),
        },
        "total_stages": plan.total_stages,
        "num_groups": plan.num_groups,
    }


def _module_document(plan: Plan, module: ModulePlan) -> dict[str, Any]:
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


def _edge_document(plan: Plan, index: int) -> dict[str, Any]:
    bridge = plan.bridges[index]
    return {
        "src": bridge.src,
        "dst": bridge.dst,
        "strategy": str(bridge.strategy),
        "num_transfers": len(bridge.transfers),
        "groups": [_family_document(family) for family in plan.families_by_owner[bridge.name]],
    }


def _family_document(family: Family) -> dict[str, Any]:
    """Kind, place in the creation order and number of the groups; their form where they are all alike.

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


def _canonical(value: Any) -> str:
    """One text per value, on any machine and Python: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(fields).encode("ascii")).hexdigest()


def digest_of(plan: Plan) -> str:
    """The plan's digest."""
    return _digest(document(plan))


def dumps(plan: Plan) -> str:
    """The plan's document as indented JSON, ending in a newline."""
    fields = document(plan)
    return json.dumps({**fields, "digest": _digest(fields)}, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def is_plan_text(data: bytes) -> bool:
    """Whether a file claims to be a plan document (a spec is never one: it has no such key)."""
    return data.removeprefix(BOM_UTF8).lstrip().startswith(b"{") and f'"{_VERSION_KEY}"'.encode() in data


def loads(text: str, file: str = _FILE) -> Plan:
    """The plan of a document.

    Raises:
        PlanError: not JSON, another version, a field that is unknown, missing, of the wrong type or that
            contradicts the rest (each named by its path), or a digest that does not match.
    """
    fields = _read(text, file)
    faults = Faults(Source(file, ()))
    version = fields.get(_VERSION_KEY)
    if version != PLAN_VERSION or isinstance(version, bool):
        rule = f"{_VERSION_KEY} = {PLAN_VERSION}, got {show(version)}"
        faults.add(codes.PLAN_VERSION, (_VERSION_KEY,), rule, "compile the spec again with this version")
        faults.raise_errors()
    spec = SPEC_TYPE.parse(fields.get("spec"), ("spec",), faults)
    faults.raise_errors()
    assert spec is not INVALID  # noqa: S101  our own bug if not: INVALID comes with a fault
    try:
        plan = compile_spec(spec)
    except PlanError as error:
        faults.extend(error, ("spec",))
        faults.raise_errors()
        raise  # unreachable: error had faults
    expected = {**document(plan), "digest": plan.digest}
    _compare(expected, fields, (), faults)
    faults.raise_errors()
    return plan


def _read(text: str, file: str) -> dict[str, Any]:
    def refuse(rule: str, line: int = 1, column: int = 1) -> PlanError:
        remedy = "give a file that `mimo plan --out` wrote"
        return PlanError([Fault(codes.NOT_JSON, (), rule, remedy, Mark(file, line, column))])

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {show(twice)} is written twice")
        return found

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not a number of JSON")

    if len(text) > MAX_BYTES:
        raise refuse(f"a plan has at most {MAX_BYTES} characters, got {len(text)}")
    try:
        fields = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise refuse(f"the text is JSON: {error.msg}", error.lineno, error.colno) from None
    except RecursionError:
        raise refuse("the text nests a few levels only; this one never ends") from None
    except ValueError as error:
        raise refuse(f"the text is JSON of unique keys and finite numbers: {error}") from None
    if not isinstance(fields, dict):
        raise refuse(f"a plan is a JSON object, got {show(fields)}")
    return fields


def _compare(expected: Any, found: Any, path: Path, faults: Faults) -> None:
    """Add a fault for every value that differs from what the spec gives."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            if key not in found:
                _differs(f"{key} is missing", (*path, key), faults)
            elif key not in expected:
                _differs(f"{show(key)} is not a field of a plan", (*path, str(key)), faults)
            else:
                _compare(expected[key], found[key], (*path, key), faults)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            _compare(one, other, (*path, index), faults)
    elif type(expected) is not type(found) or expected != found:
        if path == ("digest",):
            rule = f"digest = sha256 of the document = {expected}, got {show(found)}"
            faults.add(codes.DIGEST, path, rule, "a value was edited: change the spec and compile again")
        else:
            _differs(f"the spec gives {show(expected)}, found {show(found)}", path, faults)


def _differs(rule: str, path: Path, faults: Faults) -> None:
    faults.add(codes.PLAN_EDITED, path, rule, "change the spec and compile again, or undo the edit")
