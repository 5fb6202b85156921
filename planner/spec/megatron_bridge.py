"""Megatron-Bridge's configuration -> Spec. This is the only file that knows Megatron-Bridge's names, old and new.

Megatron-Bridge describes a layout by one parallelism object (or mapping) per module. Its current names end in `_size`
(tensor_model_parallel_size, data_parallel_size). Its older names are shorter (tensor_parallel, data_parallel), and come
with `llm_module_name` and a deployment mode.

The expert axes refactor the ranks of a module, as in megatron-core and, since July 2026, in Megatron-Bridge. (Before,
Megatron-Bridge multiplied expert_tensor_parallel_size into them: such a configuration has as many ranks here as it has
without that size.) There is one difference: a batch has to be given, since a layout cannot be checked without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..base import codes
from ..base.errors import Faults, Path, PlanError
from .fields import show, suggest
from .sections import MIMO_LANGUAGE_MODULE_KEY, Batch, Module, Parallel

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
# Sizes of configuration objects that change the layout, and that are 1 or None in every layout that can run here.
_NOT_MODELLED = (
    "virtual_pipeline_model_parallel_size", "num_layers_per_virtual_pipeline_stage",
    "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage", "pipeline_model_parallel_layout",
    "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split", "gtp_remat_size",
)  # fmt: skip
_MODES = ("colocated", "homogeneous", "heterogeneous")


def fields_from_parallelism(
    module_parallelisms: Mapping[str, Any],
    *,
    global_batch_size: int,
    micro_batch_size: int,
    seq_length: int,
    llm_module_name: str = MIMO_LANGUAGE_MODULE_KEY,
    deployment_mode: str | None = None,
    special_token_ids: Mapping[str, int] | None = None,
    topology: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """The fields of the `Spec` of a Megatron-Bridge configuration. `from_parallelism` (spec.py) explains the arguments.

    Raises:
        PlanError: with every fault found.
    """
    faults = Faults()
    tokens = special_token_ids or {}
    _check_names(list(module_parallelisms), llm_module_name, list(tokens), faults)
    if deployment_mode is not None and deployment_mode not in _MODES:
        rule = f"deployment_mode is one of {', '.join(_MODES)}; got {deployment_mode!r}"
        faults.add(codes.BAD_CHOICE, ("deployment_mode",), rule, f"use one of {', '.join(_MODES)}")
    faults.raise_errors()

    sizes = {name: _sizes(name, given, faults) for name, given in module_parallelisms.items()}
    if deployment_mode == "homogeneous":
        sizes = _homogeneous(sizes, llm_module_name, faults)
    offsets = _offsets(sizes, deployment_mode, faults)
    faults.raise_errors()

    def renamed(name: str) -> str:
        return MIMO_LANGUAGE_MODULE_KEY if name == llm_module_name else name

    modules = {
        renamed(name): Module(parallel=_placed(parallel, offsets[name]), special_token_id=tokens.get(name))
        for name, parallel in sizes.items()
    }
    return {
        "batch": Batch(global_size=global_batch_size, micro_size=micro_batch_size, seq_length=seq_length),
        "modules": modules,
        "topology": {renamed(src): tuple(map(renamed, dsts)) for src, dsts in (topology or {}).items()},
        "placement": _placement(deployment_mode, offsets),
    }


def _check_names(names: list[str], llm: str, tokens: list[str], faults: Faults) -> None:
    """Check that one module is the language model, and that every token id belongs to a module."""
    if llm not in names:
        rule = f"llm_module_name is one of the modules {', '.join(map(str, names))}; got {llm!r}"
        faults.add(codes.NO_LANGUAGE, ("llm_module_name",), rule, suggest(llm, names) + "name the LLM")
    elif llm != MIMO_LANGUAGE_MODULE_KEY and MIMO_LANGUAGE_MODULE_KEY in names:
        rule = f"{llm} becomes the module language, but another module has that name already"
        faults.add(codes.CONFLICT, ("llm_module_name",), rule, "rename the other module")
    for name in tokens:
        if name not in names:
            rule = f"{name} is one of the modules {', '.join(map(str, names))}"
            remedy = suggest(str(name), names) + "give ids to modules only"
            faults.add(codes.UNKNOWN_MODULE, ("special_token_ids", str(name)), rule, remedy)


def _placement(mode: str | None, offsets: dict[str, int | None]) -> str | None:
    """The placement that a mode means; None if there is no mode, or if rank offsets say it."""
    if mode is None or any(offset is not None for offset in offsets.values()):
        return None
    return "disjoint" if mode == "heterogeneous" else "colocated"


def _placed(parallel: Parallel | None, offset: int | None) -> Parallel | None:
    return parallel if offset is None and parallel is None else attrs.evolve(parallel or Parallel(), rank_offset=offset)


def _sizes(name: str, given: Any, faults: Faults) -> Parallel | None:
    """The sizes of one module; None if nothing was given for it, or if a fault was added."""
    if given is None:
        return None
    path = ("module_parallelisms", name)
    fields = dict(given) if isinstance(given, Mapping) else _attributes(given)
    if not isinstance(given, Mapping) and not fields:
        rule = f"sizes are a mapping or an object with attributes such as tensor_model_parallel_size; got {show(given)}"
        faults.add(codes.WRONG_TYPE, path, rule, "give one, or None for all sizes 1")
    if not isinstance(given, Mapping):
        _refuse_what_is_not_modelled(given, path, faults)
    found: dict[str, Any] = {}
    for key, value in fields.items():
        axis = _AXIS_OF_NAME.get(key)
        if axis is None:
            rule = f"{key!r} is not a size that Megatron-Bridge has"
            remedy = suggest(str(key), list(_AXIS_OF_NAME)) + "use its names, such as tensor_model_parallel_size"
            faults.add(codes.UNKNOWN_KEY, (*path, str(key)), rule, remedy)
        elif value is not None and found.setdefault(axis, value) != value:
            rule = f"{axis} is given once, got {found[axis]} and {value} (as {key})"
            faults.add(codes.CONFLICT, (*path, key), rule, "remove the older name")
    try:
        return Parallel(**found)
    except PlanError as error:
        faults.extend(error, path)
        return None


def _attributes(given: Any) -> dict[str, Any]:
    """The sizes among the attributes of a configuration object, which may have others as well."""
    return {key: getattr(given, key) for key in _AXIS_OF_NAME if hasattr(given, key)}


def _refuse_what_is_not_modelled(given: Any, path: Path, faults: Faults) -> None:
    """Add a fault for each size that would be lost, since a `Spec` has no such key for a module's parallelism."""
    from .names import NAMES  # noqa: PLC0415  needed only for objects

    for key in _NOT_MODELLED:
        value = getattr(given, key, None)
        if value is not None and value != 1 and value is not False:
            rule = f"{key} is 1 or None, got {show(value)}"
            faults.add(codes.UNKNOWN_KEY, (*path, key), rule, NAMES[key].remedy)


def _homogeneous(sizes: dict[str, Parallel | None], llm: str, faults: Faults) -> dict[str, Parallel | None]:
    """The same sizes for every module, except those of the experts, which only the language model has."""
    given = {name: parallel for name, parallel in sizes.items() if parallel is not None}
    if len(set(given.values())) > 1:
        listed = "; ".join(f"{name} {_listed(parallel)}" for name, parallel in given.items())
        rule = f"homogeneous modules have one set of sizes; found {listed}"
        faults.add(codes.COLOCATED_SIZES, ("module_parallelisms",), rule, "make them equal, or use colocated")
    shared = next(iter(given.values()), None)
    dense = shared and attrs.evolve(shared, ep=1, expt_tp=1)
    return {name: shared if name == llm else dense for name in sizes}


def _listed(parallel: Parallel) -> str:
    return " ".join(f"{axis} {getattr(parallel, axis)}" for axis in ("tp", "cp", "pp", "dp", "ep", "expt_tp"))


def _offsets(sizes: dict[str, Parallel | None], mode: str | None, faults: Faults) -> dict[str, int | None]:
    """The first rank of each module; None for all of them if the offsets say nothing.

    0 is Megatron-Bridge's default, so offsets that are all 0 say nothing.
    """
    written = {name: parallel.rank_offset if parallel else None for name, parallel in sizes.items()}
    if mode in ("colocated", "homogeneous"):
        for name, offset in written.items():
            if offset:
                rule = f"rank_offset of {name} = 0 in the {mode} mode, got {offset}"
                faults.add(codes.CONFLICT, ("module_parallelisms", name, "rank_offset"), rule, "remove rank_offset")
        return dict.fromkeys(written)
    if not any(written.values()):
        return dict.fromkeys(written)
    return {name: offset or 0 for name, offset in written.items()}
