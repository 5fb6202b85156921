"""Megatron-Bridge's configuration -> Spec: the one file that knows its names, old and new.

Megatron-Bridge describes a layout by a parallelism object (or mapping) per module. Its current names end in
`_size` (tensor_model_parallel_size, data_parallel_size); older ones are shorter (tensor_parallel,
data_parallel), with `llm_module_name` and a deployment mode beside them.

Two differences to know of. Megatron-Bridge multiplies expert_tensor_parallel_size into the ranks of a module;
here, as in megatron-core, the expert axes refactor the same ranks. And a batch has to be given: a layout
without one cannot be checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from . import codes
from .errors import Faults, PlanError
from .rules import suggest
from .spec import MIMO_LANGUAGE_MODULE_KEY, Batch, Module, Parallel, Spec

_AXIS_OF_NAME = {
    "tensor_model_parallel_size": "tp",
    "context_parallel_size": "cp",
    "pipeline_model_parallel_size": "pp",
    "data_parallel_size": "dp",
    "expert_model_parallel_size": "ep",
    "expert_tensor_parallel_size": "expt_tp",
    "tensor_parallel": "tp",
    "context_parallel": "cp",
    "pipeline_parallel": "pp",
    "data_parallel": "dp",
    "expert_parallel": "ep",
    "expert_tensor_parallel": "expt_tp",
    "rank_offset": "rank_offset",
    "order": "order",
    "sequence_parallel": "sequence_parallel",
}
_MODES = ("colocated", "homogeneous", "heterogeneous")


def from_parallelism(
    module_parallelisms: Mapping[str, Any],
    *,
    global_batch_size: int,
    micro_batch_size: int,
    seq_length: int,
    llm_module_name: str = MIMO_LANGUAGE_MODULE_KEY,
    deployment_mode: str | None = None,
    special_token_ids: Mapping[str, int] | None = None,
    topology: Mapping[str, Sequence[str]] | None = None,
    **rest: Any,
) -> Spec:
    """The spec of a Megatron-Bridge configuration.

    Args:
        module_parallelisms: per module, an object or a mapping of sizes under Megatron-Bridge's names, old or
            new. For the homogeneous mode, sizes may also be given once, under any of the modules, with None
            for the others.
        global_batch_size: samples per step.
        micro_batch_size: samples per microbatch of the whole model (Megatron-Bridge's convention).
        seq_length: tokens per sample in the language module.
        llm_module_name: the module that becomes `language`.
        deployment_mode: `colocated` (every module on all ranks), `homogeneous` (that, with one set of sizes
            for all modules) or `heterogeneous` (each on its own ranks, by rank_offset). Left out: by the
            offsets, if any module has one other than 0, else as `placement` would be left out.
        special_token_ids: per module, the id that marks its output.
        topology: module -> modules that it feeds.
        rest: further fields of Spec, such as cluster or training.

    Raises:
        PlanError: with every fault found.
    """
    faults = Faults()
    if llm_module_name not in module_parallelisms:
        known = list(module_parallelisms)
        rule = f"llm_module_name is one of the modules {', '.join(known)}; got {llm_module_name!r}"
        faults.add(codes.NO_LANGUAGE, ("llm_module_name",), rule, suggest(llm_module_name, known) + "name the LLM")
    if deployment_mode is not None and deployment_mode not in _MODES:
        rule = f"deployment_mode is one of {', '.join(_MODES)}; got {deployment_mode!r}"
        faults.add(codes.BAD_CHOICE, ("deployment_mode",), rule, f"use one of {', '.join(_MODES)}")
    faults.raise_errors()

    sizes = {name: _sizes(name, given, faults) for name, given in module_parallelisms.items()}
    if deployment_mode == "homogeneous":
        sizes = _homogeneous(sizes, faults)
    offsets = _offsets(sizes, deployment_mode, faults)
    faults.raise_errors()

    def renamed(name: str) -> str:
        return MIMO_LANGUAGE_MODULE_KEY if name == llm_module_name else name

    tokens = special_token_ids or {}
    modules = {
        renamed(name): Module(
            parallel=attrs.evolve(parallel or Parallel(), rank_offset=offsets[name]),
            special_token_id=tokens.get(name),
        )
        for name, parallel in sizes.items()
    }
    return Spec(
        batch=Batch(global_size=global_batch_size, micro_size=micro_batch_size, seq_length=seq_length),
        modules=modules,
        topology={renamed(src): tuple(map(renamed, dsts)) for src, dsts in (topology or {}).items()},
        placement="colocated" if deployment_mode in ("colocated", "homogeneous") else None,
        **rest,
    )


def _sizes(name: str, given: Any, faults: Faults) -> Parallel | None:
    """The sizes of one module; None where nothing was given, or with a fault added."""
    if given is None:
        return None
    fields = dict(given) if isinstance(given, Mapping) else _attributes(given)
    found: dict[str, Any] = {}
    path = ("module_parallelisms", name)
    for key, value in fields.items():
        axis = _AXIS_OF_NAME.get(key)
        if axis is None:
            rule = f"{key!r} is not a size that Megatron-Bridge has"
            remedy = suggest(key, list(_AXIS_OF_NAME)) + "use its names, such as tensor_model_parallel_size"
            faults.add(codes.UNKNOWN_KEY, (*path, key), rule, remedy)
        elif value is not None and found.setdefault(axis, value) != value:
            rule = f"{axis} is given once, got {found[axis]} and {value} (as {key})"
            faults.add(codes.CONFLICT, (*path, key), rule, "remove the older name")
    try:
        return Parallel(**found)
    except PlanError as error:
        faults.extend(error, path)
        return None


def _attributes(given: Any) -> dict[str, Any]:
    """The sizes that a configuration object carries; it may have methods and properties of its own."""
    return {key: getattr(given, key) for key in _AXIS_OF_NAME if hasattr(given, key)}


def _homogeneous(sizes: dict[str, Parallel | None], faults: Faults) -> dict[str, Parallel | None]:
    given = {name: parallel for name, parallel in sizes.items() if parallel is not None}
    if len(set(given.values())) > 1:
        listed = "; ".join(f"{name} {_listed(parallel)}" for name, parallel in given.items())
        rule = f"homogeneous modules have one set of sizes; found {listed}"
        faults.add(codes.COLOCATED_SIZES, ("module_parallelisms",), rule, "make them equal, or use colocated")
    shared = next(iter(given.values()), None)
    return dict.fromkeys(sizes, shared)


def _listed(parallel: Parallel) -> str:
    return " ".join(f"{axis} {getattr(parallel, axis)}" for axis in ("tp", "cp", "pp", "dp", "ep", "expt_tp"))


def _offsets(sizes: dict[str, Parallel | None], mode: str | None, faults: Faults) -> dict[str, int | None]:
    """First rank per module. Megatron-Bridge's default is 0, so 0 everywhere says nothing but in that mode."""
    written = {name: parallel.rank_offset if parallel else None for name, parallel in sizes.items()}
    if mode in ("colocated", "homogeneous"):
        for name, offset in written.items():
            if offset:
                rule = f"rank_offset of {name} = 0 in the {mode} mode, got {offset}"
                faults.add(codes.CONFLICT, ("module_parallelisms", name, "rank_offset"), rule, "remove rank_offset")
        return dict.fromkeys(written)
    if mode is None and not any(written.values()):
        return dict.fromkeys(written)
    return {name: offset or 0 for name, offset in written.items()}
