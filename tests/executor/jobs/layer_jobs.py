"""What the tests of layers run on a rank, since their own process has no megatron-core."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

from megatron.core.models.backends import LocalSpecProvider
from megatron.core.models.gpt import gpt_layer_specs
from megatron.core.transformer.enums import AttnMaskType
from torch import float32

from executor.errors import ExecutorError
from executor.model import transformer
from planner import Plan
from planner.limits.layers import Layers


class FusedLinear:
    """Stands for Transformer Engine's linear layer that holds a norm, which megatron-core lacks without the package."""


class Provider(LocalSpecProvider):
    """Stands for megatron-core's provider of Transformer Engine's modules, with the methods that others lack."""

    def column_parallel_layer_norm_linear(self) -> type:
        return FusedLinear

    def fuse_layernorm_and_linear(self) -> bool:
        return True


class Norm:
    """Stands for megatron-core's TENorm."""


CONFIG: Any = SimpleNamespace(num_moe_experts=None, normalization="RMSNorm")


def modules_of_a_block(chosen: str) -> dict[str, str]:
    """The names of the modules in the specs of a stage."""
    with (
        mock.patch.object(transformer, "choose_layers", return_value=Layers(chosen)),
        mock.patch.object(transformer, "HAVE_TE", True),
        mock.patch.object(transformer, "TENorm", Norm),
        mock.patch.object(gpt_layer_specs, "TESpecProvider", Provider),
    ):
        block = transformer.block_spec(CONFIG, AttnMaskType.no_mask, 2)
    layer = block.layer_specs[0].submodules
    attention = layer.self_attention
    return {
        "qkv": attention.submodules.linear_qkv.__name__,
        "input norm": layer.input_layernorm.__name__,
        "last norm": block.layer_norm.__name__,
        "mask": attention.params["attn_mask_type"].name,
    }


def context_parallel_size(text: str, chosen: str) -> int:
    """The context_parallel_size in language's configuration for these layers."""
    with mock.patch.object(transformer, "choose_layers", return_value=Layers(chosen)):
        return transformer.transformer_config(Plan.from_json(text).module("language"), float32).context_parallel_size


def broken_transformer_engine() -> str:
    """The error if the package is installed, but megatron-core could not import it."""
    with mock.patch.object(transformer, "choose_layers", return_value=Layers.TRANSFORMER_ENGINE):
        try:
            transformer.layer_spec(CONFIG, AttnMaskType.causal)
        except ExecutorError as error:
            return str(error)
    return ""
