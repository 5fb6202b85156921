"""The names that Megatron-Bridge's MIMO provider offers, driven by a plan.

    provider = MimoModelProvider(plan=plan, language_model_spec=..., modality_submodules_spec=...)
    (model,) = provider.provide_distributed_model(ddp_config)
    infra = provider.get_or_build_infra()

Whatever cannot run, or would silently train wrong, is refused before any process group exists. A provider creates its
groups once, no matter which of its methods are called or how often. `commands/trainer.py` builds its model here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import attrs
import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.models.mimo.config.base_configs import MimoModelConfig
from megatron.core.transformer.spec_utils import ModuleSpec

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, GroupKind, Plan, Spec

from ..errors import ExecutorError, UnsupportedError
from ..groups.groups import ProcessGroups
from ..groups.infra import MimoModelInfra, check_plan, compiled, infra_of, open_groups
from ..model.freeze import Frozen, freeze
from ..model.meta_device import on_meta
from ..model.model import PlannedMimoModel, build_model
from ..model.rng import Streams, seed_streams
from ..model.weights import initialize
from ..start import device
from ..start.limits import check_dtype
from ..training.ddp import wrap, wrap_precision
from .compare import check_model
from .fill_specs import ParameterInit, specs_of_rank
from .spec_limits import check_specs

Hook = Callable[[list[Any]], list[Any] | None]

_OVERRIDES = ("fp16", "bf16", "use_cpu_initialization", "init_model_with_meta_device")


def _refuse_fp16(_: Any, __: Any, value: bool | None) -> None:
    if value:
        check_dtype("fp16")


def _refuse_virtual(_: Any, __: Any, value: int | None) -> None:
    if value is not None:
        raise UnsupportedError(
            f"virtual_pipeline_model_parallel_size = {value}: megatron-core has no interleaved schedule for several "
            "modules\n    fix: leave it out"
        )


@attrs.define(kw_only=True, eq=False)
class MimoModelProvider:
    """Builds a MimoModel from the user's ModuleSpecs on the plan's groups.

    Arguments that are None take the plan's value: freezing, special tokens, and bf16 (the plan's training dtype). The
    given specs are never changed.

    Attributes:
        plan: a plan, or a spec that is compiled for the world as soon as there is one.
        language_model_spec: the spec of the language module.
        modality_submodules_spec: the specs of all other modules, by their names in the plan.
        seed: the seed of new weights and of dropout.
    """

    _given: Plan | Spec = attrs.field(alias="plan")
    language_model_spec: ModuleSpec | None = None
    modality_submodules_spec: Mapping[str, ModuleSpec] = attrs.field(factory=dict)
    special_token_ids: Mapping[str, int] | None = None
    freeze_language_model: bool | None = None
    freeze_modality_encoders: Mapping[str, bool] | None = None
    freeze_modality_projections: Mapping[str, bool] | None = None
    fp16: bool = attrs.field(default=False, validator=_refuse_fp16)
    bf16: bool | None = None
    use_cpu_initialization: bool = False
    init_model_with_meta_device: bool = False
    seed: int = 1234
    virtual_pipeline_model_parallel_size: int | None = attrs.field(default=None, validator=_refuse_virtual)
    _infra: MimoModelInfra | None = attrs.field(default=None, init=False, repr=False)
    # Whether the modules are the user's: the ready-made models have limits that theirs need not have.
    _own_specs: ClassVar[bool] = True

    @property
    def plan(self) -> Plan:
        """The plan. Raises PlanError if a spec was given that does not compile for this world."""
        plan = compiled(self._given)
        if dist.is_initialized():  # before that, the world may still change
            self._given = plan
        return plan

    @property
    def tensor_model_parallel_size(self) -> int:
        """Tensor-parallel size of the language module."""
        return self._size_of_language(Axis.TP)

    @property
    def pipeline_model_parallel_size(self) -> int:
        """Pipeline-parallel size of the language module."""
        return self._size_of_language(Axis.PP)

    @property
    def context_parallel_size(self) -> int:
        """Context-parallel size of the language module."""
        return self._size_of_language(Axis.CP)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters and activations."""
        chosen = self.bf16
        if chosen is None:
            planned = self.plan.training.dtype
            check_dtype(planned)
            chosen = planned == "bf16"
        return torch.bfloat16 if chosen else torch.float32

    # ---- the stages of a launch

    def finalize(self) -> None:
        """Check the plan and the specs against the world that is to run them. Creates nothing and needs no other rank.

        Raises:
            ExecutorError: the world has another size, this version of megatron-core is not supported, or it cannot
                run the plan or the specs; the message lists every reason.
        """
        check_plan(self.plan, own_specs=self._own_specs)
        self._check_names()
        self._check_specs(weights_come_later=True)

    def initialize_model_parallel(self, *_: Any, **__: Any) -> None:
        """Do nothing: every module has its own groups, and megatron-core's global state could hold only one's."""

    def build_infra(self) -> MimoModelInfra:
        """Groups, grids and collections. The first call is collective; later calls return the same object.

        Raises:
            ExecutorError: on all ranks and before any group exists, if something cannot run or the ranks differ.
        """
        return self.get_or_build_infra()

    def get_or_build_infra(self) -> MimoModelInfra:
        """The infrastructure, built once."""
        if self._infra is None:
            self.finalize()
            self._infra = infra_of(open_groups(self.plan, self._settings(), own_specs=self._own_specs))
        return self._infra

    def adopt(self, groups: ProcessGroups) -> None:
        """Use existing process groups, whose ranks have agreed, instead of opening new ones."""
        if self._infra is not None or groups.plan != self.plan:
            raise ExecutorError("a provider adopts the groups of its own plan, once, before it has any")
        self.finalize()
        self._infra = infra_of(groups)

    def provide(self, pre_process: Any = None, post_process: Any = None, vp_stage: Any = None) -> PlannedMimoModel:
        """This rank's model, compared with the plan, its frozen parts without gradients. Not moved, cast or wrapped.

        The arguments exist because other providers have them; they change nothing, since the plan decides the stages.
        """
        del pre_process, post_process, vp_stage
        model = self._provide()
        self._attach_streams(model)
        return model

    def _provide(self) -> PlannedMimoModel:
        infra = self.get_or_build_infra()
        seed_streams(infra.groups, self.seed)
        with on_meta() if self.init_model_with_meta_device else nullcontext():
            model = self._build(infra)
        check_model(model, infra.groups)
        freeze(model, self._frozen())
        return model

    def _attach_streams(self, model: PlannedMimoModel) -> None:
        Streams(self.get_or_build_infra().groups.view, self.seed).attach(model)

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
        """This rank's model on its device, each module in its own DistributedDataParallel.

        Args:
            ddp_config: the configuration for every module; `training.ddp.default_config()` if left out.
            data_parallel_random_init: give every lane the first lane's parameters.
            pre_wrap_hook: one hook or several, called in turn with a list of the one model before it is moved and
                wrapped; each may return another list.
            post_wrap_hook: the same, called after wrapping.
            mixed_precision_wrapper: a wrapper such as Float16Module, called with a module's configuration and the
                module; if left out, parameters are cast to the provider's dtype.
            settings: bf16, fp16, use_cpu_initialization and init_model_with_meta_device override the provider's;
                `model_type` and `overlap_param_gather_with_optimizer_step=False` change nothing.

        Raises:
            ExecutorError: as for `finalize`, or if this call asks for something that is not supported.
        """
        self._take(settings)
        self._refuse(ddp_config, wrap_with_ddp, use_megatron_fsdp or use_torch_fsdp2)
        self._check_specs(weights_come_later=bool(pre_wrap_hook))
        model = self._provide()
        infra = self.get_or_build_infra()
        for hook in [pre_wrap_hook] if callable(pre_wrap_hook) else pre_wrap_hook or ():
            (model,) = hook([model]) or [model]
        self._attach_streams(model)  # after the hooks: they may replace modules
        if not self.init_model_with_meta_device:
            model.to(device.current())
        wrap_precision(model, self.dtype, mixed_precision_wrapper)
        if wrap_with_ddp:
            wrap(model, infra.groups, ddp_config, broadcast=data_parallel_random_init)
        models = [model]
        return (post_wrap_hook(models) or models) if post_wrap_hook else models

    # ---- what LlavaMimoProvider replaces

    def _check_specs(self, *, weights_come_later: bool) -> None:
        language, modalities = self.language_model_spec, self.modality_submodules_spec
        check_specs(self.plan, language, modalities, self.dtype, weights_come_later=weights_come_later)

    def _build(self, infra: MimoModelInfra) -> PlannedMimoModel:
        assert self.language_model_spec is not None, "finalize has checked it"
        init = ParameterInit(
            dtype=self.dtype, on_cpu=self.use_cpu_initialization, meta=self.init_model_with_meta_device
        )
        language, modalities = specs_of_rank(infra, self.language_model_spec, self.modality_submodules_spec, init)
        config = MimoModelConfig(
            language_model_spec=language,
            modality_submodules_spec=modalities,
            special_token_ids=self._special_token_ids(),
            module_to_grid_map=infra.module_to_grid_map,
        )
        tp, cp = (infra.groups.get(MIMO_LANGUAGE_MODULE_KEY, kind) for kind in (GroupKind.TP, GroupKind.CP))
        weights = Streams(infra.groups.view, self.seed, lanes_differ=False)
        return PlannedMimoModel(config, infra.groups, self.dtype, building=weights.of, tp_group=tp, cp_group=cp)

    # ---- parts

    def _check_names(self) -> None:
        """Refuse names that are no encoder of the plan: such an entry would silently change nothing."""
        encoders = {module.name for module in self.plan.modules if not module.is_language}
        for field in ("freeze_modality_encoders", "freeze_modality_projections", "special_token_ids"):
            unknown = sorted(set(getattr(self, field) or ()) - encoders)
            if unknown:
                raise ExecutorError(
                    f"{field}: {', '.join(unknown)} is no encoder of the plan, which has {sorted(encoders)}; rename it"
                )
        feeding = {src for src, dst in self.plan.edges if dst == MIMO_LANGUAGE_MODULE_KEY}
        missing = sorted(feeding - set(self._special_token_ids()))
        if missing:
            raise ExecutorError(f"special_token_ids: {', '.join(missing)} has none: nothing says where its output goes")

    def _special_token_ids(self) -> dict[str, int]:
        if self.special_token_ids is not None:
            return dict(self.special_token_ids)
        pairs = ((module.name, module.special_token_id) for module in self.plan.modules)
        return {name: token for name, token in pairs if token is not None}

    def _frozen(self) -> Frozen:
        return Frozen.of(
            self.plan, self.freeze_language_model, self.freeze_modality_encoders, self.freeze_modality_projections
        )

    def _settings(self) -> dict[str, str]:
        """What must be equal on all ranks, besides the plan."""
        return {
            "dtype": str(self.dtype),
            "frozen": str(self._frozen()),
            "special_token_ids": str(sorted(self._special_token_ids().items())),
            "seed": str(self.seed),
        }

    def _take(self, settings: dict[str, Any]) -> None:
        for name in _OVERRIDES:
            value = settings.pop(name, None)
            if value is not None:
                setattr(self, name, value)
        settings.pop("model_type", None)
        if settings.pop("overlap_param_gather_with_optimizer_step", False):
            raise UnsupportedError(
                "overlap_param_gather_with_optimizer_step needs several model chunks, and there is one\n"
                "    fix: leave it out"
            )
        if settings:
            raise TypeError(f"provide_distributed_model has no argument {', '.join(settings)}")

    def _refuse(self, ddp_config: DistributedDataParallelConfig | None, wrap_with_ddp: bool, fsdp: bool) -> None:
        if fsdp or (ddp_config is not None and ddp_config.use_megatron_fsdp):
            raise UnsupportedError(
                "FSDP is not for several modules: megatron-core's needs the global parallel state\n"
                "    fix: leave use_megatron_fsdp and use_torch_fsdp2 out"
            )
        if wrap_with_ddp and self.init_model_with_meta_device:
            raise UnsupportedError(
                "init_model_with_meta_device: DistributedDataParallel needs parameters with storage\n"
                "    fix: wrap_with_ddp=False, or provide()"
            )

    def _size_of_language(self, axis: Axis) -> int:
        return self.plan.module(MIMO_LANGUAGE_MODULE_KEY).grid.size_of(axis)


@attrs.define(kw_only=True, eq=False)
class LlavaMimoProvider(MimoModelProvider):
    """Provides the ready-made vision (and audio) language model, in the sizes that the spec gives.

    Its weights do not depend on the layout: for a given seed, every layout starts from the same model. With
    use_cpu_initialization they do not depend on the kind of device either.
    """

    _own_specs: ClassVar[bool] = False

    def _check_specs(self, *, weights_come_later: bool) -> None:  # noqa: ARG002
        if self.language_model_spec is not None or self.modality_submodules_spec:
            raise ExecutorError("LlavaMimoProvider makes its own specs; give yours to MimoModelProvider")

    def _build(self, infra: MimoModelInfra) -> PlannedMimoModel:
        model = build_model(self.plan, infra.groups, self.dtype, meta=self.init_model_with_meta_device)
        model.special_token_ids = self._special_token_ids()
        if not self.init_model_with_meta_device:
            initialize(model, self.seed, on_cpu=self.use_cpu_initialization)
        return model
