"""Refuses, by name and before any collective, ModuleSpecs that would silently train wrong or fail late.

megatron-core trusts the specs that it is given. The ready-made specs of `model/model.py` keep these rules by
construction; a user's specs are checked here, and all faults are reported at once. A fault is marked `spec` if the
specs themselves are wrong, and `megatron-core` if they run into a limit of 0.19.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
import torch.distributed as dist
from megatron.core.models.mimo.submodules.base import ModalitySubmodules
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.spec_utils import ModuleSpec, get_module
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.transformer_config import TransformerConfig

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, ModulePlan, Plan

from ..errors import UnsupportedError
from ..model.encoders import EncoderSubmodules

# The sizes in a config, and the axis that each belongs to.
AXES = {
    "tensor_model_parallel_size": Axis.TP,
    "pipeline_model_parallel_size": Axis.PP,
    "context_parallel_size": Axis.CP,
    "expert_model_parallel_size": Axis.EP,
}
# Further settings by which megatron-core divides layers among stages.
_STAGE_SETTINGS = (
    "pipeline_model_parallel_layout",
    "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split",
)

# Forward methods that take hidden states to be the encoder's output already, or another stage's.
_FORWARDS_PAST_ENCODERS = (ModalitySubmodules.forward, EncoderSubmodules.forward)


@attrs.frozen
class Limit:
    """One reason why specs cannot be trained on a plan.

    Attributes:
        component: what refuses them: `spec` if they are wrong in themselves, `megatron-core` if it is its limit.
        where: the place, as the user would write it.
        rule: the rule that is broken, with its values.
        remedy: what to change.
    """

    component: str
    where: str
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.rule} [{self.component}]\n    fix: {self.remedy}"


@attrs.frozen(eq=False)
class SpecPart:
    """A spec somewhere in what the user gave.

    Attributes:
        where: the place of the spec, as the user would write it.
        module: the module of the plan that the spec belongs to.
        kind: its role there: language, submodules, encoder, projection or nested.
        spec: the spec itself.
    """

    where: str
    module: ModulePlan
    kind: str
    spec: ModuleSpec

    @property
    def is_staged(self) -> bool:
        """Whether the spec describes layers that are cut into pipeline stages."""
        return self.kind in ("language", "encoder")

    @property
    def is_sequence_parallel(self) -> bool:
        """Whether the plan splits the activations along the sequence."""
        return self.is_staged and self.module.sequence_parallel and self.module.grid.size_of(Axis.TP) > 1

    @property
    def configs(self) -> Iterator[tuple[str, TransformerConfig]]:
        """The TransformerConfigs in the spec's params, each with its place."""
        for name, value in (self.spec.params or {}).items():
            if isinstance(value, TransformerConfig):
                yield f"{self.where}.params[{name!r}]", value


def check_specs(
    plan: Plan,
    language: ModuleSpec | None,
    modalities: Mapping[str, ModuleSpec],
    dtype: torch.dtype,
    *,
    weights_come_later: bool = True,
) -> None:
    """Raise UnsupportedError with every reason why these specs cannot be trained on the plan.

    Args:
        weights_come_later: whether the parameters are filled after they are built.
    """
    found = list(spec_limits_of(plan, language, modalities, dtype, weights_come_later=weights_come_later))
    if found:
        lines = "\n".join(map(str, found))
        raise UnsupportedError(f"these module specs cannot be trained on the plan:\n{lines}")


def spec_limits_of(
    plan: Plan,
    language: ModuleSpec | None,
    modalities: Mapping[str, ModuleSpec],
    dtype: torch.dtype,
    *,
    weights_come_later: bool = True,
) -> Iterator[Limit]:
    """Every reason why these specs cannot be trained on the plan, in plan order."""
    yield from _modules(plan, language, modalities)
    for part in parts_of(plan, language, modalities):
        yield from _params(part)
        if part.kind == "submodules":
            yield from _config_somewhere(part)
            yield from _forward(part)
            yield from _fed(plan, part)
        if part.kind == "language":
            yield from _context(part)
        for where, config in part.configs:
            yield from _losses(where, config)
            yield from _sizes(where, part, config)
            yield from _dtypes(where, config, dtype)
            yield from _experts(where, config)
            if part.is_staged:
                yield from _dropout(where, config)
                yield from _layers(where, part, config)
            if not (weights_come_later or config.perform_initialization):
                rule = "perform_initialization = False, and no pre_wrap_hook fills the parameters: they hold anything"
                yield Limit("spec", where, rule, "set perform_initialization=True, or give a pre_wrap_hook")


def parts_of(plan: Plan, language: ModuleSpec | None, modalities: Mapping[str, ModuleSpec]) -> Iterator[SpecPart]:
    """Every spec of the plan's modules, outer specs before those nested in them."""
    for module in plan.modules:
        if module.is_language:
            if language is not None:
                yield from _walk(SpecPart("language_model_spec", module, "language", language))
        elif module.name in modalities:
            where = f"modality_submodules_spec[{module.name!r}]"
            yield from _walk(SpecPart(where, module, "submodules", modalities[module.name]))


def _walk(part: SpecPart) -> Iterator[SpecPart]:
    yield part
    kinds = {"encoders": "encoder", "input_projections": "projection"} if part.kind == "submodules" else {}
    nested = part.spec.submodules if isinstance(part.spec.submodules, Mapping) else {}
    for name, value in {**(part.spec.params or {}), **nested}.items():
        for where, spec in _specs_in(f"{part.where}.{name}", value):
            yield from _walk(SpecPart(where, part.module, kinds.get(name, "nested"), spec))


def _specs_in(where: str, value: Any) -> Iterator[tuple[str, ModuleSpec]]:
    if isinstance(value, ModuleSpec):
        yield where, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _specs_in(f"{where}[{key!r}]", one)
    elif isinstance(value, list | tuple):
        for place, one in enumerate(value):
            yield from _specs_in(f"{where}[{place}]", one)


def class_of(spec: ModuleSpec) -> Any:
    """The class that a spec names; None if it names a function, or nothing that can be imported."""
    found = get_module(spec) if spec.module is not None else None
    return found if isinstance(found, type) else None


def parameters_of(spec: ModuleSpec) -> set[str]:
    """The names of the parameters that the spec's class takes."""
    made = class_of(spec)
    return set(inspect.signature(made).parameters) if made is not None else set()


# ---- rules


def _modules(plan: Plan, language: ModuleSpec | None, modalities: Mapping[str, ModuleSpec]) -> Iterator[Limit]:
    planned = [module.name for module in plan.modules if not module.is_language]
    if language is None:
        rule = f"the plan has a module {MIMO_LANGUAGE_MODULE_KEY}, and no spec of it was given"
        yield Limit("spec", "language_model_spec", rule, "give one; LlavaMimoProvider makes its own")
    elif not isinstance((language.params or {}).get("config"), TransformerConfig):
        rule = "MimoModel reads params['config'], a TransformerConfig; there is none"
        yield Limit("megatron-core", "language_model_spec", rule, "add it")
    if sorted(modalities) != sorted(planned):
        rule = f"one spec per encoder of the plan: {planned}, got {sorted(modalities)}"
        yield Limit("spec", "modality_submodules_spec", rule, "name the specs as the plan's modules")


def _params(part: SpecPart) -> Iterator[Limit]:
    taken = [
        name
        for name, value in (part.spec.params or {}).items()
        if isinstance(value, ProcessGroupCollection | dist.ProcessGroup)
    ]
    if taken:
        rule = f"process groups come from the plan, got params {', '.join(taken)}"
        yield Limit("spec", part.where, rule, "remove them from the spec")
    scatters = (part.spec.params or {}).get("scatter_embedding_sequence_parallel", True)
    if part.kind == "language" and part.is_sequence_parallel and scatters:
        rule = "scatter_embedding_sequence_parallel = False under sequence parallelism: MimoModel scatters itself"
        yield Limit("megatron-core", part.where, rule, "pass scatter_embedding_sequence_parallel=False")


def _forward(part: SpecPart) -> Iterator[Limit]:
    """Defects of megatron-core's ModalitySubmodules that a subclass must mend."""
    made = class_of(part.spec)
    if made is None or not issubclass(made, ModalitySubmodules):
        rule = f"a modality's spec names a subclass of ModalitySubmodules, got {part.spec.module}"
        yield Limit("megatron-core", part.where, rule, "wrap the encoder in one")
        return
    if part.module.num_stages > 1 and made.forward is ModalitySubmodules.forward:
        rule = (
            f"pp = {part.module.num_stages}, but {made.__name__}.forward is ModalitySubmodules.forward, which "
            "runs no encoder on any stage but the first"
        )
        remedy = (
            "override forward to run the encoder on hidden_states, as executor.model.encoders.EncoderSubmodules does, "
            "or use pp: 1"
        )
        yield Limit("megatron-core", part.where, rule, remedy)
    encoders = (part.spec.submodules or {}).get("encoders") or {}
    blocks = [name for name, spec in encoders.items() if issubclass(class_of(spec) or object, TransformerBlock)]
    yield from _stages(part, encoders)
    if blocks and made.encode is ModalitySubmodules.encode:
        rule = (
            f"encoders hand on (samples, tokens, hidden), but {', '.join(blocks)} is a TransformerBlock: tokens first"
        )
        yield Limit("megatron-core", part.where, rule, "wrap it in a module that transposes its output")


def _fed(plan: Plan, part: SpecPart) -> Iterator[Limit]:
    """Another encoder's output arrives as hidden_states, which megatron-core's forward takes to be encoded already."""
    made = class_of(part.spec)
    incoming = [src for src, dst in plan.edges if dst == part.module.name]
    if incoming and made is not None and getattr(made, "forward", None) in _FORWARDS_PAST_ENCODERS:
        rule = f"{', '.join(incoming)} feeds {part.module.name}, but {made.__name__}.forward runs no encoder on it"
        yield Limit("spec", part.where, rule, "override forward to use hidden_states beside encoder_inputs")


def _context(part: SpecPart) -> Iterator[Limit]:
    """Local attention under context parallelism, if layers are given as specs.

    Layers that a function makes later run into megatron-core's own assertion instead.
    """
    cp = part.module.grid.size_of(Axis.CP)
    if cp > 1 and _names(part.spec, DotProductAttention):
        rule = f"cp = 1 with DotProductAttention, got {cp}: megatron-core's local attention knows no other"
        yield Limit("megatron-core", part.where, rule, "use Transformer Engine's layers, or cp: 1")


def _names(value: Any, wanted: type) -> bool:
    """Whether `wanted` is named anywhere in a spec or in the values that it holds."""
    if isinstance(value, ModuleSpec):
        return value.module is wanted or _names(value.params, wanted) or _names(value.submodules, wanted)
    if isinstance(value, Mapping):
        return any(_names(one, wanted) for one in value.values())
    if isinstance(value, list | tuple):
        return any(_names(one, wanted) for one in value)
    if isinstance(value, TransformerConfig | type) or not dataclasses.is_dataclass(value):
        return value is wanted
    return any(_names(getattr(value, field.name), wanted) for field in dataclasses.fields(value))


def _stages(part: SpecPart, encoders: Mapping[str, ModuleSpec]) -> Iterator[Limit]:
    """An encoder of several stages must be told its stage, or find it in the groups."""
    unaware = [name for name, spec in encoders.items() if not {"pre_process", "pg_collection"} & parameters_of(spec)]
    if part.module.num_stages > 1 and unaware:
        rule = f"pp = {part.module.num_stages}, but {', '.join(unaware)} takes neither pre_process nor pg_collection"
        yield Limit("spec", part.where, rule, "let it build its stage's layers only, or use pp: 1")


def _config_somewhere(part: SpecPart) -> Iterator[Limit]:
    # Projections are on the last stage only.
    kinds = ("encoder",) if part.module.num_stages > 1 else ("encoder", "projection")
    if not any(list(inner.configs) for inner in _walk(part) if inner.kind in kinds):
        rule = f"some {' or '.join(kinds)} has a TransformerConfig, which says how gradients are summed; none has"
        yield Limit("spec", part.where, rule, "give the encoder or its projection a config")


def _losses(where: str, config: TransformerConfig) -> Iterator[Limit]:
    if not config.calculate_per_token_loss:
        rule = "calculate_per_token_loss = True in every module: gradients are sums over tokens; got False"
        yield Limit("spec", where, rule, "set calculate_per_token_loss=True")


def _sizes(where: str, part: SpecPart, config: TransformerConfig) -> Iterator[Limit]:
    """Sizes come from the plan: those left at 1 are filled in, and any other number must agree."""
    for name, axis in AXES.items():
        found, planned = getattr(config, name), part.module.grid.size_of(axis)
        if found not in (1, planned) and (part.is_staged or axis is Axis.TP):
            rule = f"{name} = {axis} of {part.module.name} = {planned}, got {found}"
            yield Limit("spec", where, rule, "leave it out: the plan fills it in")
    planned_flag = part.is_sequence_parallel
    if part.kind != "nested" and config.sequence_parallel != planned_flag:
        rule = f"sequence_parallel = {planned_flag} in the plan for this part, got {config.sequence_parallel}"
        yield Limit("spec", where, rule, f"set sequence_parallel={planned_flag}, or change the plan's")
    if config.virtual_pipeline_model_parallel_size is not None:
        rule = f"no interleaved schedule, got virtual pipeline size {config.virtual_pipeline_model_parallel_size}"
        yield Limit("megatron-core", where, rule, "leave it out")


def _dtypes(where: str, config: TransformerConfig, dtype: torch.dtype) -> Iterator[Limit]:
    """All modules have one dtype, because bridges receive in the pipeline's dtype."""
    flags = {torch.bfloat16: config.bf16, torch.float16: config.fp16}
    wrong = [f"{kind} parameters" for kind, is_set in flags.items() if is_set and kind is not dtype]
    if config.pipeline_dtype not in (None, dtype):
        wrong.append(f"pipeline_dtype {config.pipeline_dtype}")
    if wrong:
        rule = f"the provider's dtype is {dtype}, got {' and '.join(wrong)}"
        yield Limit("spec", where, rule, "leave them out, or change the provider's bf16")


def _experts(where: str, config: TransformerConfig) -> Iterator[Limit]:
    """megatron-core checks this when a config is made, before the plan asks for sequence lengths that vary."""
    if config.num_moe_experts and config.moe_token_dispatcher_type == "allgather":  # noqa: S105  no password
        rule = "moe_token_dispatcher_type allgather cannot take sequences of varying length, which several modules need"
        yield Limit("megatron-core", where, rule, "set moe_token_dispatcher_type='alltoall'")


def _dropout(where: str, config: TransformerConfig) -> Iterator[Limit]:
    if config.hidden_dropout and config.sequence_parallel:
        rule = f"hidden_dropout = 0 under sequence parallelism, got {config.hidden_dropout}: replicas drift apart"
        yield Limit("megatron-core", where, rule, "set hidden_dropout=0")


def _layers(where: str, part: SpecPart, config: TransformerConfig) -> Iterator[Limit]:
    """The layers that are built must be those that were planned."""
    stages = part.module.stages
    if stages is None:
        return
    if config.num_layers != sum(stages):
        rule = f"num_layers = {sum(stages)} in the plan (stages {list(stages)}), got {config.num_layers}"
        yield Limit("spec", where, rule, "give the plan and the spec the same model")
    ends = config.num_layers_in_first_pipeline_stage, config.num_layers_in_last_pipeline_stage
    planned = (stages[0], stages[-1])
    if any(one is not None and one != other for one, other in zip(ends, planned, strict=True)):
        rule = f"first and last stage hold {planned} layers in the plan, got {ends}"
        yield Limit("spec", where, rule, "leave num_layers_in_first/last_pipeline_stage out")
    set_otherwise = [name for name in _STAGE_SETTINGS if getattr(config, name)]
    if set_otherwise:
        rule = f"layers per stage are the plan's, {list(stages)}, got {', '.join(set_otherwise)}"
        yield Limit("spec", where, rule, "leave it out, and write `stages` in the plan's spec")
