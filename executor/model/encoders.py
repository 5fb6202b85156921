"""Encoders of the ready models: a CLIP-like vision transformer, a Whisper-like audio encoder, and their stages.

Between stages hidden states are (sequence, batch, hidden), as megatron-core's TransformerBlock has them. The last
stage transposes to (batch, sequence, hidden) before it flattens: TransformerBlock's own order, flattened, mixes
samples as soon as a lane holds more than one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from megatron.core.models.mimo.submodules.base import ModalitySubmodules
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional

from planner import Model

from .transformer import LocalNorm, block_spec


class Encoder(MegatronModule):
    """One stage of an encoder: an input part on the first stage, some transformer layers, an end on the last."""

    def __init__(
        self,
        config: TransformerConfig,
        model: Model,
        pg_collection: ProcessGroupCollection,
        num_layers: int,
        is_first: bool,
        is_last: bool,
    ) -> None:
        super().__init__(config=config)
        self.tp_group = pg_collection.tp
        self.is_first, self.is_last = is_first, is_last
        self.input_part = self.build_input(config, model) if is_first else None
        self.decoder = TransformerBlock(
            config=config,
            spec=block_spec(config, AttnMaskType.no_mask, num_layers),
            pre_process=is_first,
            post_process=is_last and self.ends_with_norm,
            pg_collection=pg_collection,
        )

    ends_with_norm = False

    def build_input(self, config: TransformerConfig, model: Model) -> torch.nn.Module:
        """What turns the modality's input into (batch, sequence, hidden)."""
        raise NotImplementedError

    def set_input_tensor(self, hidden_states: torch.Tensor) -> None:
        """Hand over the previous stage's output."""
        self.decoder.set_input_tensor(hidden_states)

    def forward(self, inputs: torch.Tensor | None = None) -> torch.Tensor:
        """Args: inputs, of the first stage. Returns (sequence, batch, hidden); on the last stage (batch, ...)."""
        embedded = None
        if self.input_part is not None:
            embedded = self.input_part(inputs).transpose(0, 1).contiguous()
        hidden_states: torch.Tensor = self.decoder(embedded, None)
        if not self.is_last:
            return hidden_states
        return self.drop(hidden_states.transpose(0, 1))

    def drop(self, features: torch.Tensor) -> torch.Tensor:
        """Leave out the positions that language does not see. features: (batch, sequence, hidden)."""
        return features


class PatchInput(torch.nn.Module):
    """Patches, a class token, positions, CLIP's first norm. (batch, 3, side, side) -> (batch, 1 + patches, hidden)."""

    def __init__(self, config: TransformerConfig, model: Model) -> None:
        super().__init__()
        side, patch, hidden = model.image_size or 1, model.patch_size or 1, config.hidden_size
        self.conv1 = torch.nn.Conv2d(3, hidden, patch, stride=patch, bias=False)
        self.class_token = torch.nn.Parameter(torch.empty(1, 1, hidden))
        self.position_embeddings = torch.nn.Embedding((side // patch) ** 2 + 1, hidden)
        self.ln_pre = LocalNorm(config, hidden, config.layernorm_epsilon)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(pixels.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        features = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        normed: torch.Tensor = self.ln_pre(features + self.position_embeddings.weight)
        return normed


class VisionEncoder(Encoder):
    """CLIP's vision transformer without its last norm, as LLaVA uses it: patches only, the class token dropped."""

    def build_input(self, config: TransformerConfig, model: Model) -> torch.nn.Module:
        return PatchInput(config, model)

    def drop(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, 1:]


class SpectrogramInput(torch.nn.Module):
    """Whisper's two convolutions and sinusoidal positions. (batch, mels, frames) -> (batch, frames / 2, hidden)."""

    def __init__(self, config: TransformerConfig, model: Model) -> None:
        super().__init__()
        mels, hidden = model.num_mel_bins or 1, config.hidden_size
        self.conv1 = torch.nn.Conv1d(mels, hidden, 3, padding=1)
        self.conv2 = torch.nn.Conv1d(hidden, hidden, 3, stride=2, padding=1)

    def forward(self, spectrogram: torch.Tensor) -> torch.Tensor:
        frames = functional.gelu(self.conv1(spectrogram.to(self.conv1.weight.dtype)))
        features = functional.gelu(self.conv2(frames)).transpose(1, 2)
        return features + _sinusoids(features.shape[1], features.shape[2], features)


class AudioEncoder(Encoder):
    """Whisper's encoder."""

    ends_with_norm = True

    def build_input(self, config: TransformerConfig, model: Model) -> torch.nn.Module:
        return SpectrogramInput(config, model)


def _sinusoids(length: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """Whisper's fixed positions (openai/whisper, model.py), in the dtype and on the device of `like`."""
    half = width // 2
    scales = torch.exp(torch.arange(half, device=like.device) * (-math.log(10000.0) / max(1, half - 1)))
    angles = torch.arange(length, device=like.device)[:, None] * scales[None, :]
    table = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    return functional.pad(table, (0, width - table.shape[1])).to(like.dtype)


class LinearProjection(MegatronModule):
    """One linear layer into language's width, the same on every tp rank.

    Not megatron-core's projector of the kind "affine": above tp 1 it adds a part of the bias to the whole output.
    """

    def __init__(self, config: TransformerConfig, input_size: int, pg_collection: ProcessGroupCollection) -> None:
        super().__init__(config=config)
        self.tp_group = pg_collection.tp
        self.linear = ColumnParallelLinear(
            input_size,
            config.hidden_size,
            config=config,
            init_method=config.init_method,
            gather_output=True,
            tp_group=pg_collection.tp,
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(tokens, encoder's hidden) -> (tokens, language's hidden)."""
        projected: torch.Tensor = self.linear(features)[0]
        return projected


class EncoderSubmodules(ModalitySubmodules):
    """One encoder and its projection, run on every stage of the module.

    megatron-core's base bypasses the encoder whenever hidden states are given, so that every stage but the first
    would run nothing. Here hidden states go to the encoder's own input.
    """

    def forward(
        self, encoder_inputs: dict[str, Any] | None = None, hidden_states: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Returns hidden states, or on the last stage (tokens, language's hidden); None without input."""
        ((name, encoder),) = self.encoders.items()
        if hidden_states is not None and hidden_states.ndim == 2:
            return hidden_states * 1  # a microbatch without this modality: no tokens, and nothing to encode
        if hidden_states is None and encoder_inputs is None:
            return None
        if hidden_states is not None:
            encoder.set_input_tensor(hidden_states)
        features: torch.Tensor = encoder(**(encoder_inputs or {}).get(name, {}))
        if not self.is_last_stage:
            return features
        projected: torch.Tensor = self.project_embeddings([features.flatten(0, 1)], is_input=True)
        return projected

    def decode(self, embeddings: torch.Tensor, data_batch: dict[str, Any]) -> torch.Tensor:
        """Refused: encoders have no decoders."""
        raise NotImplementedError("an encoder module has no decoder")
