"""A module of the plan -> megatron-core's TransformerConfig and layer specs.

Three settings are the same for every module, because gradients depend on them. `calculate_per_token_loss` is on: with
its default, a module's gradients would be wrong by its number of lanes. Dropout is 0: under sequence parallelism, that
of the embeddings would differ between tp ranks. Auxiliary losses of experts are off: they are not a sum over tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.activations import quick_gelu
from megatron.core.extensions.transformer_engine import HAVE_TE, TENorm
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_submodules,
    get_gpt_layer_with_transformer_engine_submodules,
)
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch.nn import functional

from planner import Axis, Model, ModulePlan
from planner.limits.layers import Layers

from ..errors import ExecutorError
from ..start.layer_backend import choose_layers

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "quick_gelu": quick_gelu,
    "silu": functional.silu,
    "relu": functional.relu,
}
_RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective"},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}


def model_of(module: ModulePlan) -> Model:
    """The sizes of a module's model. Raises ExecutorError if the spec has none."""
    if module.model is None:
        raise ExecutorError(f"modules.{module.name}: training needs a model; add `model:` with a preset or sizes")
    return module.model


def transformer_config(module: ModulePlan, dtype: torch.dtype) -> TransformerConfig:
    """The configuration of one module's transformer, for any of its ranks."""
    model, size = model_of(module), module.grid.size_of
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.kv_channels,
        normalization=model.normalization,
        add_bias_linear=model.add_bias_linear,
        gated_linear_unit=model.gated_linear_unit,
        activation_func=_ACTIVATIONS[model.activation or "gelu"],
        tensor_model_parallel_size=size(Axis.TP),
        pipeline_model_parallel_size=module.num_stages,
        # Local attention refuses cp > 1. Such a plan cannot run then (planner/limits), but it can be built, so that
        # its parameters can be counted.
        context_parallel_size=1 if choose_layers() is Layers.LOCAL else size(Axis.CP),
        sequence_parallel=module.sequence_parallel and size(Axis.TP) > 1,
        expert_model_parallel_size=size(Axis.EP),
        expert_tensor_parallel_size=size(Axis.EXPT_TP),
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        variable_seq_lengths=True,  # required by the multi-module schedule
        calculate_per_token_loss=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        perform_initialization=False,  # weights.py fills every parameter
        moe_token_dispatcher_type="alltoall",  # noqa: S106  not a password
        **_experts(model),
        **_uneven(module),
        **_RECOMPUTE[module.recompute],
    )


def _experts(model: Model) -> dict[str, Any]:
    if model.num_moe_experts is None:
        return {}
    return {
        "num_moe_experts": model.num_moe_experts,
        "moe_router_topk": model.moe_router_topk,
        "moe_router_pre_softmax": model.moe_router_topk == 1,  # the weight of one expert after a softmax would be 1
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
    }


def _uneven(module: ModulePlan) -> dict[str, Any]:
    """The layers of the first and of the last stage, unless all stages have equally many."""
    stages = module.stages or ()
    if len(set(stages)) <= 1:
        return {}
    return {"num_layers_in_first_pipeline_stage": stages[0], "num_layers_in_last_pipeline_stage": stages[-1]}


class LocalNorm:
    """torch's norms for local layers, also under sequence parallelism, which megatron-core's own wrapper refuses.

    Under sequence parallelism each tp rank sees a part of the sequence, so the gradients of a norm's parameters have to
    be summed over tp. megatron-core does so if the parameters have the flag `sequence_parallel`.
    """

    def __new__(cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> Any:
        kind = torch.nn.RMSNorm if config.normalization == "RMSNorm" else torch.nn.LayerNorm
        norm = kind(hidden_size, eps=eps)
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm


def layer_spec(config: TransformerConfig, mask: AttnMaskType) -> ModuleSpec:
    """A transformer layer, made of Transformer Engine's or of megatron-core's own modules."""
    build = {Layers.LOCAL: _local_submodules, Layers.TRANSFORMER_ENGINE: _transformer_engine_submodules}
    submodules = build[choose_layers()](config)
    submodules.self_attention.params = {"attn_mask_type": mask}
    return ModuleSpec(module=TransformerLayer, submodules=submodules)


def _local_submodules(config: TransformerConfig) -> TransformerLayerSubmodules:
    """megatron-core's own modules, which run on any device."""
    submodules = get_gpt_layer_local_submodules(
        num_experts=config.num_moe_experts, moe_grouped_gemm=False, normalization=config.normalization
    )
    submodules.input_layernorm = LocalNorm
    if config.num_moe_experts is None or submodules.pre_mlp_layernorm is not None:
        submodules.pre_mlp_layernorm = LocalNorm
    return submodules


# Has run neither on a GPU nor with the package. The choice and the specs are tested, with stand-ins for its modules.
def _transformer_engine_submodules(config: TransformerConfig) -> TransformerLayerSubmodules:
    """Transformer Engine's modules; it has most norms inside its linear layers."""
    if not HAVE_TE:
        raise ExecutorError("transformer_engine is installed but does not import: repair it, or uninstall it")
    return get_gpt_layer_with_transformer_engine_submodules(num_experts=config.num_moe_experts, moe_grouped_gemm=False)


def block_spec(config: TransformerConfig, mask: AttnMaskType, num_layers: int) -> TransformerBlockSubmodules:
    """The layers of one stage, and the norm that follows the last layer of the last stage."""
    norm = LocalNorm if choose_layers() is Layers.LOCAL else TENorm
    return TransformerBlockSubmodules(layer_specs=[layer_spec(config, mask)] * num_layers, layer_norm=norm)
