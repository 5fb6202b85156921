"""ModuleSpecs as a user of megatron-core writes them, without parallel sizes, groups or stages."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.activations import quick_gelu
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.models.mimo.submodules.vision import VisionModalitySubmodules
from megatron.core.models.vision.multimodal_projector import MultimodalProjector
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional

from executor.model.encoders import EncoderSubmodules, VisionEncoder
from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, Model, Plan
from planner.spec.presets import padded_vocab_size


class UserVision(VisionEncoder):
    """An encoder with the signature of megatron-core's models."""

    def __init__(
        self,
        config: TransformerConfig,
        model: Model,
        pg_collection: Any = None,
        pre_process: bool = True,
        post_process: bool = True,
    ) -> None:
        num_layers = config.num_layers // config.pipeline_model_parallel_size
        super().__init__(config, model, pg_collection, num_layers, pre_process, post_process)
        if self.input_part is not None:
            torch.nn.init.normal_(self.input_part.class_token)


class PlainVision(torch.nn.Module):
    """An encoder that knows nothing of megatron-core, so that every tp rank holds all of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, width, 4, stride=4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(samples, 3, side, side) -> (samples, patches, width)."""
        return functional.gelu(self.patches(inputs)).flatten(2).transpose(1, 2)


def config(**changes: Any) -> TransformerConfig:
    """A configuration with the sizes of specs.language(), and with what every module must say."""
    sizes: dict[str, Any] = {
        "num_layers": 4,
        "hidden_size": 32,
        "ffn_hidden_size": 64,
        "num_attention_heads": 4,
        "normalization": "RMSNorm",
        "activation_func": functional.silu,
        "gated_linear_unit": True,
        "add_bias_linear": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "calculate_per_token_loss": True,
    }
    return TransformerConfig(**(sizes | changes))


def vision_config(**changes: Any) -> TransformerConfig:
    """A configuration with the sizes of specs.vision()."""
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "ffn_hidden_size": None,
        "normalization": "LayerNorm",
        "activation_func": quick_gelu,
        "gated_linear_unit": False,
        "add_bias_linear": True,
    }
    return config(**(sizes | changes))


def language(plan: Plan, **changes: Any) -> ModuleSpec:
    """The spec of megatron-core's own GPT."""
    module = plan.module(MIMO_LANGUAGE_MODULE_KEY)
    padded = module.model and padded_vocab_size(module.model, module.grid.size_of(Axis.TP))
    params: dict[str, Any] = {
        "config": config(),
        "transformer_layer_spec": get_gpt_layer_local_spec(normalization="RMSNorm"),
        "vocab_size": padded,
        "max_sequence_length": 64,
        "share_embeddings_and_output_weights": False,
        "position_embedding_type": "rope",
        "scatter_embedding_sequence_parallel": False,
    }
    return ModuleSpec(module=GPTModel, params=params | changes)


def images(plan: Plan, **changes: Any) -> ModuleSpec:
    """An encoder in megatron-core's own submodules if there is one stage, else in those that run all stages."""
    module = plan.module("images")
    encoder = ModuleSpec(module=UserVision, params={"config": vision_config(), "model": module.model} | changes)
    return images_of(encoder, module.num_stages)


def images_of(encoder: ModuleSpec, num_stages: int) -> ModuleSpec:
    """The submodules of one encoder of images, with its projection into the width of language."""
    projector = ModuleSpec(
        module=MultimodalProjector,
        params={
            "config": config(
                num_layers=1,
                ffn_hidden_size=32,
                gated_linear_unit=False,
                activation_func=functional.gelu,
                add_bias_linear=True,
            ),
            "submodules": MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear),
            "projector_type": "mlp",
            "input_size": 16,
        },
    )
    return ModuleSpec(
        module=VisionModalitySubmodules if num_stages == 1 else EncoderSubmodules,
        submodules={"encoders": {"vit": encoder}, "input_projections": [projector]},
    )


def plain_images(plan: Plan) -> ModuleSpec:
    """Images with the plain encoder. The projection has the only configuration."""
    spec = images(plan)
    spec.submodules["encoders"] = {"vit": ModuleSpec(module=PlainVision, params={"width": 16})}
    return spec


def summed_loss(loss_mask: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the schedule asks for: the sum of the losses of all tokens, their number, and what is reported."""
    loss = (output.float() * loss_mask).sum()
    return loss, loss_mask.sum().to(torch.int), loss.detach()
