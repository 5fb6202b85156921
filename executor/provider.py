"""The names that Megatron-Bridge's MIMO modules offer, driven by a plan.

    provider = MimoModelProvider(plan=plan, language_model_spec=..., modality_submodules_spec=...)
    (model,) = provider.provide_distributed_model(ddp_config=ddp_config)
    infra = provider.get_or_build_infra()

Groups are created once per provider, whatever is called and how often. The user's ModuleSpecs are never changed:
groups, stages and tp groups go into deep copies.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import attrs
import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.models.mimo.config.base_configs import MimoModelConfig
from megatron.core.models.mimo.submodules.base import ModalitySubmodules
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.spec_utils import ModuleSpec

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, GroupKind, Plan, Spec, compile_spec

from . import device
from .ddp import wrap, wrap_precision
from .errors import ExecutorError, UnsupportedError
from .grids import PlannedGrid, build_grids, collection_of
from .groups import ProcessGroups
from .megatron_limits import check_limits
from .meta import on_meta
from .model import PlannedMimoModel, build_model
from .optimizer import most_modules_on_a_rank
from .rng import seed_streams

Hook = Callable[[list[Any]], list[Any] | None]


@attrs.frozen(kw_only=True, eq=False)
class MimoModelInfra:
    """What a training loop needs beside the model.

    Attributes:
        module_to_grid_map: every module's grid; also of modules that the rank is not in.
        topology: module -> modules that it feeds.
        pg_collections: per module, the rank's groups; None where it is absent.
        participating_modules: the modules of this rank.
        module_output_ndim: per module, the dims of the tensor that it hands on.
        groups: the plan's process groups.
    """

    module_to_grid_map: dict[str, PlannedGrid]
    topology: dict[str, list[str]]
    pg_collections: dict[str, ProcessGroupCollection | None]
    participating_modules: list[str]
    module_output_ndim: dict[str, int]
    groups: ProcessGroups

    @property
    def plan(self) -> Plan:
        return self.groups.plan


def _compiled(value: Plan | Spec) -> Plan:
    return compile_spec(value) if isinstance(value, Spec) else value


@attrs.define(kw_only=True, eq=False)
class MimoModelProvider:
    """Builds a MimoModel from the user's ModuleSpecs on the plan's groups; a spec is compiled for the world.

    Freezing and special tokens left out are the plan's.
    """

    plan: Plan = attrs.field(converter=_compiled)
    language_model_spec: ModuleSpec | None = None
    modality_submodules_spec: Mapping[str, ModuleSpec] = attrs.field(factory=dict)
    special_token_ids: Mapping[str, int] | None = None
    freeze_language_model: bool | None = None
    freeze_modality_encoders: Mapping[str, bool] | None = None
    freeze_modality_projections: Mapping[str, bool] | None = None
    fp16: bool = False
    bf16: bool = True
    use_cpu_initialization: bool = False
    init_model_with_meta_device: bool = False
    seed: int = 1234
    virtual_pipeline_model_parallel_size: int | None = attrs.field(default=None)
    _infra: MimoModelInfra | None = attrs.field(default=None, init=False)

    @virtual_pipeline_model_parallel_size.validator
    def _check_virtual(self, _: Any, value: int | None) -> None:
        if value is not None:
            raise UnsupportedError(
                f"virtual_pipeline_model_parallel_size = {value}: megatron-core has no interleaved schedule for "
                "several modules; leave it out"
            )

    @property
    def tensor_model_parallel_size(self) -> int:
        """tp of language."""
        return self._language_size(Axis.TP)

    @property
    def pipeline_model_parallel_size(self) -> int:
        """pp of language."""
        return self._language_size(Axis.PP)

    @property
    def context_parallel_size(self) -> int:
        """cp of language."""
        return self._language_size(Axis.CP)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.fp16 else torch.bfloat16 if self.bf16 else torch.float32

    def finalize(self) -> None:
        """A plan is valid already; compare it with what runs it: the world's size and megatron-core's limits."""
        if dist.is_initialized() and dist.get_world_size() != self.plan.world_size:
            found = dist.get_world_size()
            raise ExecutorError(f"world size = {found}, but the plan is for {self.plan.world_size} ranks")
        check_limits(self.plan)

    def initialize_model_parallel(self, *_: Any, **__: Any) -> None:
        """Nothing: each module has groups of its own, and megatron-core's global state would hold one module's."""

    def build_infra(self) -> MimoModelInfra:
        """Groups, grids and collections; collective the first time, and the same ever after."""
        return self.get_or_build_infra()

    def get_or_build_infra(self) -> MimoModelInfra:
        """The infrastructure, built once."""
        if self._infra is None:
            self._infra = infra_of(ProcessGroups(self.plan, dist.get_rank()))
        return self._infra

    def provide(self, pre_process: Any = None, post_process: Any = None, vp_stage: Any = None) -> PlannedMimoModel:
        """This rank's model, not wrapped. The arguments are the schedule's of other providers; the plan decides."""
        del pre_process, post_process, vp_stage
        infra = self.get_or_build_infra()
        with on_meta() if self.init_model_with_meta_device else nullcontext():
            model = self._build(infra)
        self._freeze(model)
        return model

    def provide_distributed_model(
        self,
        ddp_config: DistributedDataParallelConfig | None = None,
        *,
        wrap_with_ddp: bool = True,
        data_parallel_random_init: bool = True,
        pre_wrap_hook: Hook | Sequence[Hook] | None = None,
        post_wrap_hook: Hook | None = None,
        mixed_precision_wrapper: Callable[[Any, Any], Any] | None = None,
        use_megatron_fsdp: bool = False,
        use_torch_fsdp2: bool = False,
        **settings: Any,
    ) -> list[PlannedMimoModel]:
        """The model of this rank with each module in its own DistributedDataParallel.

        Args:
            mixed_precision_wrapper: called with a module's configuration and the module; left out, parameters are
                cast to the provider's dtype.
            settings: fp16, bf16, use_cpu_initialization, init_model_with_meta_device replace the provider's;
                `model_type` and `overlap_param_gather_with_optimizer_step` are accepted where they change nothing.
        """
        self._refuse(ddp_config, use_megatron_fsdp or use_torch_fsdp2)
        self._refuse_dropout()
        self._take(settings)
        self.finalize()
        seed_streams(self.get_or_build_infra().groups, self.seed)
        model = self.provide()
        for hook in [pre_wrap_hook] if callable(pre_wrap_hook) else pre_wrap_hook or ():
            model = (hook([model]) or [model])[0]
        if not self.init_model_with_meta_device:
            model.to(device.current())
        infra = self.get_or_build_infra()
        wrap_precision(model, self.dtype, mixed_precision_wrapper)
        if wrap_with_ddp:
            wrap(model, infra.groups, ddp_config, broadcast=data_parallel_random_init)
        models = [model]
        return (post_wrap_hook(models) or models) if post_wrap_hook else models

    # ---- parts

    def _build(self, infra: MimoModelInfra) -> PlannedMimoModel:
        if self.language_model_spec is None:
            raise ExecutorError("MimoModelProvider needs a language_model_spec; LlavaMimoProvider makes its own")
        config = MimoModelConfig(
            language_model_spec=self._language_spec(infra),
            modality_submodules_spec={
                name: self._modality_spec(name, spec, infra) for name, spec in self.modality_submodules_spec.items()
            },
            special_token_ids=self._special_token_ids(),
            module_to_grid_map=infra.module_to_grid_map,
        )
        tp, cp = (infra.groups.get(MIMO_LANGUAGE_MODULE_KEY, kind) for kind in (GroupKind.TP, GroupKind.CP))
        return PlannedMimoModel(config, infra.groups, tp_group=tp, cp_group=cp)

    def _language_spec(self, infra: MimoModelInfra) -> ModuleSpec:
        spec = copy.deepcopy(self.language_model_spec)
        assert spec is not None, "checked by the caller"
        if self.init_model_with_meta_device and "config" in (spec.params or {}):
            spec.params["config"].init_model_with_meta_device = True  # ties no weights over ranks
        collection = infra.pg_collections[MIMO_LANGUAGE_MODULE_KEY]
        if collection is not None:
            _inject(spec, infra, MIMO_LANGUAGE_MODULE_KEY, always=True)
        return spec

    def _modality_spec(self, name: str, spec: ModuleSpec, infra: MimoModelInfra) -> ModuleSpec:
        spec = copy.deepcopy(spec)
        collection = infra.pg_collections[name]
        if collection is None:
            return spec
        if isinstance(spec.module, type) and issubclass(spec.module, ModalitySubmodules):
            spec.params = {**(spec.params or {}), "pg_collection": collection}
        parts = spec.submodules or {}
        for encoder in (parts.get("encoders") or {}).values():
            _inject(encoder, infra, name, always=False)
        for projection in parts.get("input_projections") or ():
            projection.params = {"tp_group": collection.tp, **(projection.params or {})}
        return spec

    def _special_token_ids(self) -> dict[str, int]:
        if self.special_token_ids is not None:
            return dict(self.special_token_ids)
        pairs = ((module.name, module.special_token_id) for module in self.plan.modules)
        return {name: token for name, token in pairs if token is not None}

    def _freeze(self, model: PlannedMimoModel) -> None:
        language = self.plan.module(MIMO_LANGUAGE_MODULE_KEY)
        frozen = language.freeze.all if self.freeze_language_model is None else self.freeze_language_model
        if model.language_model is not None and frozen:
            model.language_model.requires_grad_(False)
        for name, submodules in model.modality_submodules.items():
            freeze = self.plan.module(name).freeze
            if (self.freeze_modality_encoders or {}).get(name, freeze.encoder):
                submodules.encoders.requires_grad_(False)
            if (self.freeze_modality_projections or {}).get(name, freeze.projection):
                submodules.input_projections.requires_grad_(False)

    def _refuse(self, ddp_config: DistributedDataParallelConfig | None, fsdp: bool) -> None:
        if fsdp or (ddp_config is not None and ddp_config.use_megatron_fsdp):
            raise UnsupportedError("FSDP is not for several modules: megatron-core's needs the global parallel state")
        varying = [m.name for m in self.plan.modules if not m.is_language and m.output.tokens_per_sample is None]
        if ddp_config is not None and ddp_config.overlap_grad_reduce and varying:
            raise UnsupportedError(
                f"overlap_grad_reduce with {', '.join(varying)}, whose tokens per sample vary: a lane without any "
                "would never start its reduction (Megatron-LM #5285); turn it off, or declare tokens_per_sample"
            )

    def _refuse_dropout(self) -> None:
        """One tracker of random streams serves all modules of a rank: with several, dropout would be correlated."""
        specs = [self.language_model_spec]
        for spec in self.modality_submodules_spec.values():
            specs += list(((spec.submodules or {}).get("encoders") or {}).values())
        configs = [(spec.params or {}).get("config") for spec in specs if spec is not None]
        drops = any(config and (config.hidden_dropout or config.attention_dropout) for config in configs)
        if drops and most_modules_on_a_rank(self.plan) > 1:
            raise UnsupportedError(
                "dropout on ranks that hold several modules: megatron-core has one random stream for all of them; "
                "set hidden_dropout and attention_dropout to 0, or place the modules apart"
            )

    def _take(self, settings: dict[str, Any]) -> None:
        for name in ("fp16", "bf16", "use_cpu_initialization", "init_model_with_meta_device"):
            value = settings.pop(name, None)
            if value is not None:
                setattr(self, name, value)
        settings.pop("model_type", None)
        if settings.pop("overlap_param_gather_with_optimizer_step", False):
            raise UnsupportedError("overlap_param_gather_with_optimizer_step needs model chunks; there is one")
        if settings:
            raise TypeError(f"provide_distributed_model has no argument {', '.join(settings)}")

    def _language_size(self, axis: Axis) -> int:
        return self.plan.module(MIMO_LANGUAGE_MODULE_KEY).grid.size_of(axis)


class LlavaMimoProvider(MimoModelProvider):
    """The ready vision (and audio) language model of the spec's sizes, as a provider."""

    def _build(self, infra: MimoModelInfra) -> PlannedMimoModel:
        return build_model(self.plan, infra.groups, self.dtype, meta=self.init_model_with_meta_device)


def _inject(spec: ModuleSpec, infra: MimoModelInfra, name: str, *, always: bool) -> None:
    """Put the rank's groups and stage into a copied spec; into an encoder's only what its class takes."""
    stage = infra.groups.view.role.modules[name]
    found = {
        "pg_collection": infra.pg_collections[name],
        "pre_process": stage.is_first_stage,
        "post_process": stage.is_last_stage,
    }
    taken = inspect.signature(spec.module).parameters if isinstance(spec.module, type) else {}
    spec.params = {**(spec.params or {}), **{key: value for key, value in found.items() if always or key in taken}}


def infra_of(groups: ProcessGroups) -> MimoModelInfra:
    """The infrastructure of groups that exist."""
    plan, present = groups.plan, groups.view.role.modules
    topology: dict[str, list[str]] = {module.name: [] for module in plan.modules}
    for src, dst in plan.edges:
        topology[src].append(dst)
    names = [module.name for module in plan.modules]
    return MimoModelInfra(
        module_to_grid_map=build_grids(plan, groups),
        topology=topology,
        pg_collections={name: collection_of(name, groups) if name in present else None for name in names},
        participating_modules=[name for name in names if name in present],
        module_output_ndim={module.name: module.output.tensor_dims for module in plan.modules},
        groups=groups,
    )
