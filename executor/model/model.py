"""Plan -> the MimoModel of one rank: a language model with vision, audio or both, of the spec's sizes.

megatron-core's specs are made for each rank: they hold its groups and its stage. A rank has specs even for the modules
that it does not hold, because MimoModel reads language's configuration everywhere.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.models.mimo.config.base_configs import MimoModelConfig
from megatron.core.models.mimo.config.role import ModuleStageInfo as StageInfo
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.models.vision.multimodal_projector import MultimodalProjector
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.utils import make_tp_sharded_tensor_for_checkpoint

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, GroupKind, ModuleLayout, ModulePlan, ModuleStageInfo, Plan
from planner.layout.dag import topological_order
from planner.layout.ir import edge_name
from planner.spec.presets import padded_vocab_size

from ..bridge.communicator import key_of
from ..bridge.packed import SIZES, part_sizes, sizes_of
from ..bridge.shared_bridge import SharedBridge
from ..errors import ExecutorError
from ..groups.grids import build_grids, collection_of
from ..groups.groups import ProcessGroups
from ..start import device
from .encoders import AudioEncoder, EncoderSubmodules, LinearProjection, VisionEncoder
from .transformer import block_spec, model_of, transformer_config

ENCODERS = {"vit": VisionEncoder, "audio": AudioEncoder}


class LanguageModel(GPTModel):
    """GPTModel whose padded vocabulary takes no part in the loss, so that the loss does not depend on tp.

    The vocabulary is padded to a multiple of 128·tp. megatron-core's cross entropy counts the padding as words: the
    loss of an untrained model grows by the log of what was added. Tied embeddings are described by the model's own
    groups, since there is no global parallel state.

    Attributes:
        true_vocab_size: size of the vocabulary before padding.
    """

    def __init__(self, *args: Any, true_vocab_size: int, **kwargs: Any) -> None:
        self.true_vocab_size = true_vocab_size
        super().__init__(*args, **kwargs)

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The loss of each token, (samples, tokens); `logits`: (tokens, samples, words of this tp rank)."""
        first = self.tp_group.rank() * logits.shape[-1]
        own_words = min(max(self.true_vocab_size - first, 0), logits.shape[-1])
        if own_words < logits.shape[-1]:
            # In place: logits are the largest tensor of a step. Their gradient is 0 here, and so is that of the rows.
            logits[..., own_words:] = torch.finfo(logits.dtype).min
        return super().compute_language_model_loss(labels, logits)

    def tie_embeddings_and_output_weights_state_dict(
        self,
        sharded_state_dict: dict[str, Any],
        output_key: str,
        embedding_key: str,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Describe the output layer of the last of several stages as a replica of the first stage's embedding."""
        if not self.post_process or self.pre_process:
            return
        replica = (1, 0, metadata["dp_cp_group"].rank() if metadata else 0)
        sharded_state_dict[output_key] = make_tp_sharded_tensor_for_checkpoint(
            tensor=self.shared_embedding_or_output_weight(),
            key=embedding_key,
            replica_id=replica,
            allow_shape_mismatch=True,
            tp_group=self.tp_group,
            dp_cp_group=metadata["dp_cp_group"] if metadata else None,
        )


class PlannedMimoModel(MimoModel):
    """MimoModel on the plan's bridges, with one forward pass for every layout.

    megatron-core has two forward passes: one for ranks that hold all modules, and one for ranks that hold encoders or
    language. Here a rank runs its encoders in the order of the DAG, and then its language stage, if it has one. What
    feeds modules on the same ranks goes over the edge's `SharedBridge`; what feeds modules elsewhere is the rank's
    output, which the pipeline sends. An encoder that is fed by another gets its output as `hidden_states`, with the
    tokens of each sample noted on it under packed.SIZES.

    Attributes:
        role: megatron-core's RankRole of this rank.
        plan: the plan that the model was built from.
        shared_bridges: the bridges between modules that share ranks, of which this rank is an end.
    """

    role: Any

    def __init__(
        self,
        config: MimoModelConfig,
        groups: ProcessGroups,
        dtype: torch.dtype,
        *,
        building: Callable[[str], AbstractContextManager[Any]] = nullcontext,
        **kwargs: Any,
    ) -> None:
        """Build the rank's modules.

        Args:
            dtype: dtype of what encoders hand on.
            building: makes the context, from a module's name, in which that module is built: it can put in place the
                random states that the weights come from.
        """
        self._building = building  # set first: MimoModel's constructor builds
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*experimental.*", category=UserWarning)
            super().__init__(config, **kwargs)
        role, plan = groups.view.role, groups.plan
        if role.mode is ModuleLayout.COLOCATED and plan.module(MIMO_LANGUAGE_MODULE_KEY).num_stages > 1:
            # megatron-core calls every stage first and last if all modules share all their ranks.
            stages = {name: StageInfo(one.is_first_stage, one.is_last_stage) for name, one in role.modules.items()}
            self.role = dataclasses.replace(self.role, modules=stages)
        self.plan = plan
        self.shared_bridges = tuple(
            SharedBridge(groups, src, dst, dtype, device.current())
            for src, dst in plan.pipeline.shared
            if role.is_last_stage(src) or role.is_first_stage(dst)
        )
        self._order = topological_order([module.name for module in plan.modules], plan.edges)
        self._cp = {  # coord and size: which part of each sample's tokens the rank holds of a module
            name: (coords[Axis.CP], plan.module(name).grid.size_of(Axis.CP))
            for name, coords in groups.view.coords.items()
        }

    def _initialize_submodules(self) -> None:
        """Build the encoders as MimoModel does, each in the context that `building` makes for it."""
        for name, spec in self.mimo_config.modality_submodules_spec.items():
            stage = self.role.modules.get(name)
            if stage is not None:
                with self._building(name):
                    self.modality_submodules[name] = spec.module.from_spec(
                        spec, is_first_stage=stage.is_first_stage, is_last_stage=stage.is_last_stage
                    )

    def _initialize_language_model(self) -> None:
        with self._building(MIMO_LANGUAGE_MODULE_KEY) if self.role.has_language_module else nullcontext():
            super()._initialize_language_model()

    def _build_colocated_communicators(self) -> None:
        """Build none: `shared_bridges` take their place."""

    def forward(  # noqa: PLR0917  MimoModel's own arguments, in its order
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        loss_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        modality_inputs: dict[str, dict[str, Any]] | None = None,
        packing_kwargs: dict[str, Any] | None = None,
        modality_input_ids: Mapping[str, torch.Tensor] | None = None,
    ) -> tuple[Any, torch.Tensor | None]:
        """MimoModel's forward pass, with one more argument.

        Args:
            modality_input_ids: per encoder, the ids of its lane's samples, (samples, tokens). Needed for encoders whose
                samples are not those of `input_ids`, which happens if modules on the same ranks have different dp.

        Returns:
            Language's output and the loss mask; on a rank without language, the outputs by module in place of the
            first.

        Raises:
            ExecutorError: an encoder's tokens are not those that `input_ids` or the plan say.
        """
        received = dict(getattr(self, "input_tensors", None) or {})
        outputs: dict[str, torch.Tensor] = {}
        anchor, arrived = None, None
        for name in self._order:  # the order is the same on all ranks: exchanges are collective over an edge's ranks
            for bridge in self.shared_bridges:
                if bridge.dst == name:
                    arrived, anchor = bridge.exchange(outputs.get(bridge.src), anchor)
                    if arrived is not None:
                        received[key_of(bridge)] = arrived
            if name in self.modality_submodules:
                ids = (modality_input_ids or {}).get(name, input_ids)
                outputs[name] = self._encode(name, ids, modality_inputs, self._hidden_states(name, received))
        if self.language_model is None:
            return self._outputs(outputs, anchor if arrived is None else None), loss_mask
        result: tuple[Any, torch.Tensor | None] = self._forward_language_module(
            input_ids, position_ids, attention_mask, loss_mask, labels, received, packing_kwargs
        )
        return result

    def _hidden_states(self, name: str, received: dict[str, Any]) -> Any:
        """What an encoder takes from what has come: from its previous stage, or from the one module that feeds it."""
        keys = [name, *(edge_name(src, dst) for src, dst in self.plan.edges if dst == name)]
        return next((received.pop(key) for key in keys if key in received), None)

    def _outputs(self, outputs: dict[str, torch.Tensor], anchor: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The outputs from which modules elsewhere are fed, and perhaps an anchor.

        If nothing on this rank depends on the last anchor, it stands for everything that left over shared bridges. It
        has to be a single output, because the schedule runs a backward pass per output, and several would run through
        the same graph again.
        """
        handed_on = {bridge.src for bridge in self.shared_bridges}
        found = {name: output for name, output in outputs.items() if name not in handed_on}
        return found if anchor is None else found | {min(handed_on): anchor}

    def _encode(
        self, name: str, input_ids: torch.Tensor, inputs: dict[str, dict[str, Any]] | None, received: Any
    ) -> torch.Tensor:
        """Run this rank's stage of one encoder. The last stage notes the tokens of each sample on its output."""
        module = self.modality_submodules[name]
        in_dtype = {"fp32_output": False} if _is_half(module) else {}  # a bridge carries one dtype: the model's
        output: torch.Tensor | None = module(
            encoder_inputs=(inputs or {}).get(name), hidden_states=received, **in_dtype
        )
        is_empty, is_last = output is None, self.role.is_last_stage(name)
        token = self.special_token_ids.get(name)
        if output is None:
            if is_last and token is None:
                rule = "without a special token an encoder hands on a tensor, if need be of no rows; got None"
                raise ExecutorError(f"{name}: {rule}")
            output = self._empty_encoder_output(name)
        if token is None:
            return self._with_own_sizes(name, output, input_ids.shape[0]) if is_last else output
        if is_empty or is_last:
            cp_coord, cp_size = self._cp[name]
            sizes = [part_sizes(tokens, cp_size)[cp_coord] for tokens in (input_ids == token).sum(dim=1).tolist()]
            if is_empty and any(sizes):
                raise ExecutorError(f"{name}: input_ids have places for {sum(sizes)} tokens, but there are no inputs")
            setattr(output, SIZES, sizes)
        return output

    def _with_own_sizes(self, name: str, output: torch.Tensor, num_samples: int) -> torch.Tensor:
        """Note the tokens of each sample on the output of an encoder that has no special token.

        `input_ids` do not tell them then, so the plan must say how many there are, or the encoder itself.
        """
        try:
            sizes = sizes_of(output, self.plan.module(name).output, num_samples, self._cp[name])
        except ExecutorError as error:
            raise ExecutorError(f"{name}, which has no special token: {error}") from error
        setattr(output, SIZES, list(sizes))
        return output


def _is_half(module: torch.nn.Module) -> bool:
    """Whether a module is wrapped in a Float16Module, which would hand on fp32, without what is noted on the tensor."""
    inner: Any = module
    while isinstance(inner, DistributedDataParallel):
        inner = inner.module
    return isinstance(inner, Float16Module)


def build_model(plan: Plan, groups: ProcessGroups, dtype: torch.dtype, *, meta: bool = False) -> PlannedMimoModel:
    """What this rank holds of the model, not yet wrapped, filled or frozen.

    Args:
        meta: whether the model is built under `on_meta`, without storage.
    """
    config = MimoModelConfig(
        language_model_spec=language_spec(plan.module(MIMO_LANGUAGE_MODULE_KEY), groups, dtype),
        modality_submodules_spec={
            module.name: encoder_spec(module, plan, groups, dtype) for module in plan.modules if not module.is_language
        },
        special_token_ids={
            module.name: module.special_token_id for module in plan.modules if module.special_token_id is not None
        },
        module_to_grid_map=build_grids(plan, groups),
    )
    config.language_model_spec.params[
        "config"
    ].init_model_with_meta_device = meta  # so that it does not tie weights over ranks
    tp_group = groups.get(MIMO_LANGUAGE_MODULE_KEY, GroupKind.TP)
    cp_group = groups.get(MIMO_LANGUAGE_MODULE_KEY, GroupKind.CP)
    model = PlannedMimoModel(config, groups, dtype, cp_group=cp_group, tp_group=tp_group)
    model.to(dtype)
    return model


def language_spec(module: ModulePlan, groups: ProcessGroups, dtype: torch.dtype) -> ModuleSpec:
    """GPT with rotary position embeddings.

    The embedding does not scatter its output over tp: MimoModel does so once it has put the encoders' outputs in place.
    """
    config, model = transformer_config(module, dtype), model_of(module)
    stage = groups.view.role.modules.get(module.name, ModuleStageInfo(False, False))
    return ModuleSpec(
        module=LanguageModel,
        params={
            "config": config,
            "transformer_layer_spec": block_spec(config, AttnMaskType.causal, _num_layers(module, groups)),
            "vocab_size": padded_vocab_size(model, module.grid.size_of(Axis.TP)),
            "true_vocab_size": model.vocab_size or 1,
            "max_sequence_length": model.max_positions,
            "pre_process": stage.is_first_stage,
            "post_process": stage.is_last_stage,
            "share_embeddings_and_output_weights": not model.untie_embeddings_and_output_weights,
            "position_embedding_type": "rope",
            "scatter_embedding_sequence_parallel": False,
            "pg_collection": collection_of(module.name, groups),
        },
    )


def encoder_spec(module: ModulePlan, plan: Plan, groups: ProcessGroups, dtype: torch.dtype) -> ModuleSpec:
    """One encoder, under the name of its family, and its projection into language's width."""
    config, model = transformer_config(module, dtype), model_of(module)
    collection = collection_of(module.name, groups)
    stage = groups.view.role.modules.get(module.name, ModuleStageInfo(False, False))
    encoder = ModuleSpec(
        module=ENCODERS[model.family or "vit"],
        params={
            "config": config,
            "model": model,
            "pg_collection": collection,
            "num_layers": _num_layers(module, groups),
            "is_first": stage.is_first_stage,
            "is_last": stage.is_last_stage,
        },
    )
    width = model_of(plan.module(MIMO_LANGUAGE_MODULE_KEY)).hidden_size or 1
    return ModuleSpec(
        module=EncoderSubmodules,
        params={"pg_collection": collection},
        submodules={
            "encoders": {model.family: encoder},
            "input_projections": [projection_spec(module, width, dtype, collection)],
        },
    )


def projection_spec(module: ModulePlan, width: int, dtype: torch.dtype, collection: Any) -> ModuleSpec:
    """LLaVA's two-layer MLP, or a single linear layer if the spec gives no `projector_hidden_size`.

    Args:
        width: hidden size of language.
    """
    model = model_of(module)
    config = TransformerConfig(
        num_layers=1,
        hidden_size=width,
        ffn_hidden_size=model.projector_hidden_size or width,
        num_attention_heads=module.grid.size_of(Axis.TP),  # it has none; the configuration demands that tp divides them
        kv_channels=1,
        tensor_model_parallel_size=module.grid.size_of(Axis.TP),
        params_dtype=dtype,
        calculate_per_token_loss=True,
        perform_initialization=False,
    )
    params = {"config": config, "input_size": model.hidden_size, "pg_collection": collection}
    if model.projector_hidden_size is None:
        return ModuleSpec(module=LinearProjection, params=params)
    submodules = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    return ModuleSpec(module=MultimodalProjector, params={**params, "submodules": submodules, "projector_type": "mlp"})


def _num_layers(module: ModulePlan, groups: ProcessGroups) -> int:
    """Layers of this rank's stage; 0 if the rank does not hold the module."""
    coords = groups.view.coords.get(module.name)
    return (module.stages or (0,))[coords[Axis.PP]] if coords else 0


def modules_of(model: MimoModel) -> Iterator[tuple[str, Any]]:
    """The modules that this rank holds, by name: encoders, then language."""
    yield from model.modality_submodules.items()
    if model.language_model is not None:
        yield MIMO_LANGUAGE_MODULE_KEY, model.language_model
