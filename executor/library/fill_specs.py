"""From a user's ModuleSpecs to the specs of one rank: deep copies that hold the plan's groups, stage and sizes.

The user's specs are never changed. Process groups always come from the plan. Sizes, dtypes and layers per stage are
filled in if the user left them at their defaults; `spec_limits.py` has already refused values that differ.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, ModulePlan, ModuleStageInfo

from ..groups.infra import MimoModelInfra
from .spec_limits import AXES, SpecPart, parameters_of, parts_of


@attrs.frozen(kw_only=True)
class ParameterInit:
    """How parameters are created.

    Attributes:
        dtype: their dtype.
        on_cpu: whether they are drawn whole on the CPU and then sliced.
        meta: whether they are created without storage, on the meta device.
    """

    dtype: torch.dtype
    on_cpu: bool = False
    meta: bool = False


def specs_of_rank(
    infra: MimoModelInfra, language: ModuleSpec, modalities: Mapping[str, ModuleSpec], init: ParameterInit
) -> tuple[ModuleSpec, dict[str, ModuleSpec]]:
    """This rank's spec of the language module, and its specs of all other modules by name."""
    # Copied one by one: a config that modules share must become several, since their sizes differ.
    language = copy.deepcopy(language)
    own = {name: copy.deepcopy(spec) for name, spec in modalities.items()}
    for part in parts_of(infra.plan, language, own):
        for _, config in part.configs:
            _fill(config, part, init)
        _inject(part, infra)
    return language, own


def _fill(config: TransformerConfig, part: SpecPart, init: ParameterInit) -> None:
    """Fill in sizes, dtypes and what the multi-module schedule needs."""
    grid = part.module.grid
    for name, axis in AXES.items():
        if part.is_staged or axis is Axis.TP:
            setattr(config, name, grid.size_of(axis))
    config.expert_tensor_parallel_size = grid.size_of(Axis.EXPT_TP)
    config.params_dtype = config.pipeline_dtype = init.dtype
    config.bf16 = init.dtype is torch.bfloat16
    config.variable_seq_lengths = True
    config.use_cpu_initialization = config.use_cpu_initialization or init.on_cpu
    config.init_model_with_meta_device = init.meta  # ties no weights over ranks
    if part.is_staged:
        _fill_layers(config, part.module)


def _fill_layers(config: TransformerConfig, module: ModulePlan) -> None:
    stages = module.stages or ()
    if len(set(stages)) > 1:
        config.num_layers_in_first_pipeline_stage = stages[0]
        config.num_layers_in_last_pipeline_stage = stages[-1]


def _inject(part: SpecPart, infra: MimoModelInfra) -> None:
    """Put groups and stage into a spec: all of them for language, elsewhere those that the class takes."""
    collection = infra.pg_collections[part.module.name]
    if collection is None or part.kind == "nested":
        return
    stage: ModuleStageInfo = infra.groups.view.role.modules[part.module.name]
    found: dict[str, Any] = {"pg_collection": collection}
    if part.kind == "submodules":  # from_spec gives it its stage
        part.spec.params = {**(part.spec.params or {}), **found}
        return
    if part.kind == "projection":
        found["tp_group"] = collection.tp
    else:
        found |= {"pre_process": stage.is_first_stage, "post_process": stage.is_last_stage}
    taken = parameters_of(part.spec) if part.module.name != MIMO_LANGUAGE_MODULE_KEY else set(found)
    part.spec.params = {**(part.spec.params or {}), **{name: one for name, one in found.items() if name in taken}}
