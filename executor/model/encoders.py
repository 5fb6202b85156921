"""The ready-made encoders, stage by stage: a CLIP-like vision transformer and a Whisper-like audio encoder.

Between stages, hidden states are (sequence, batch, hidden), as in megatron-core's TransformerBlock. The last stage
transposes them to (batch, sequence, hidden) before they are flattened: flattened in TransformerBlock's order, samples
would be mixed as soon as a lane holds more than one.
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
    """One stage of an encoder: the input module on the first stage, then transformer layers, then on the last stage
    the norm, if the encoder ends with one, and the choice of tokens that language sees.

    Attributes:
        ends_with_norm: whether a norm follows the last layer.
    """

    ends_with_norm = False

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

    def build_input(self, config: TransformerConfig, model: Model) -> torch.nn.Module:
        """The module that turns the modality's input into (batch, sequence, hidden)."""
        raise NotImplementedError

    def set_input_tensor(self, hidden_states: torch.Tensor) -> None:
        """Take the previous stage's output, (sequence, batch, hidden)."""
        self.decoder.set_input_tensor(hidden_states)

    def forward(self, inputs: torch.Tensor | None = None) -> torch.Tensor:
        """Run this stage.

        Args:
            inputs: the modality's input, on the first stage only; later ones have been given an input tensor.

        Returns:
            Hidden states: (sequence, batch, hidden), but on the last stage (batch, sequence, hidden).
        """
        embedded = None
        if self.input_part is not None:
            embedded = self.input_part(inputs).transpose(0, 1).contiguous()
        hidden_states: torch.Tensor = self.decoder(embedded, None)
        if not self.is_last:
            return hidden_states
        return self.drop(hidden_states.transpose(0, 1))

    def drop(self, features: torch.Tensor) -> torch.Tensor:
        """Leave out the tokens that language does not see. features: (batch, sequence, hidden)."""
        return features


class PatchInput(torch.nn.Module):
    """CLIP's input: patches after a class token, plus position embeddings, and a norm.

    Maps (batch, 3, height, width) to (batch, 1 + patches, hidden); images are square.
    """

    def __init__(self, config: TransformerConfig, model: Model) -> None:
        super().__init__()
        image, patch, hidden = model.image_size or 1, model.patch_size or 1, config.hidden_size
        self.conv1 = torch.nn.Conv2d(3, hidden, patch, stride=patch, bias=False)
        self.class_token = torch.nn.Parameter(torch.empty(1, 1, hidden))
        self.position_embeddings = torch.nn.Embedding((image // patch) ** 2 + 1, hidden)
        self.ln_pre = LocalNorm(config, hidden, config.layernorm_epsilon)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(pixels.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        features = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        normed: torch.Tensor = self.ln_pre(features + self.position_embeddings.weight)
        return normed


class VisionEncoder(Encoder):
    """CLIP's vision transformer without its last norm, as LLaVA uses it: the class token is dropped at the end."""

    def build_input(self, config: TransformerConfig, model: Model) -> torch.nn.Module:
        return PatchInput(config, model)

    def drop(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, 1:]


class SpectrogramInput(torch.nn.Module):
    """Whisper's input: two convolutions, plus sinusoidal position embeddings.

    Maps (batch, mels, frames) to (batch, frames / 2, hidden).
    """

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
    """Whisper's fixed position embeddings (openai/whisper, model.py): (length, width), with the dtype and device of
    `like`."""
    half = width // 2
    scales = torch.exp(torch.arange(half, device=like.device) * (-math.log(10000.0) / max(1, half - 1)))
    angles = torch.arange(length, device=like.device)[:, None] * scales[None, :]
    table = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    return functional.pad(table, (0, width - table.shape[1])).to(like.dtype)


class LinearProjection(MegatronModule):
    """One linear layer into language's width, whose output is equal on all tp ranks.

    megatron-core's projector of type "affine" is not used: with tp above 1 it adds one rank's share of the bias to the
    whole output.
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
        """Map (tokens, encoder's hidden) to (tokens, language's hidden)."""
        projected: torch.Tensor = self.linear(features)[0]
        return projected


class EncoderSubmodules(ModalitySubmodules):
    """One encoder and its projection, as they run on every stage of the module.

    megatron-core's base class bypasses the encoder whenever hidden states are given, so all stages but the first would
    run nothing. Here the encoder takes the hidden states as its input.
    """

    def forward(
        self, encoder_inputs: dict[str, Any] | None = None, hidden_states: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Run this stage.

        Args:
            encoder_inputs: the encoder's arguments by its name, on the first stage.
            hidden_states: the previous stage's output; two dims if the microbatch has nothing of this modality.

        Returns:
            Hidden states, or (tokens, language's hidden) on the last stage; None if nothing was given.
        """
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
        """Refused with a NotImplementedError: encoders have no decoders."""
        raise NotImplementedError("an encoder module has no decoder")
