"""What a prediction assumes of the training software beside the plan."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Settings:
    """The defaults are what Transformer Engine under megatron-core 0.19 does in bf16.

    Attributes:
        flash_attention: scores are never written to memory; else they are, with their dropout.
        dropout: dropout of 1 byte of mask per hidden value, twice a layer.
        fused_loss: the cross entropy is one kernel over the logits.
        gradient_bytes: of each gradient that is accumulated and reduced.
        dummy_gradient: Transformer Engine's placeholder of 2 bytes for the weight gradients of one layer.
        scattered_hops: between stages each tp rank sends its share, and all gather after it: Megatron-LM of 2021.
        stages_per_rank: slices of an interleaved schedule; only memory and the bubble of measured runs know it.
    """

    flash_attention: bool = True
    dropout: bool = False
    fused_loss: bool = True
    gradient_bytes: int = 4
    dummy_gradient: bool = True
    scattered_hops: bool = False
    stages_per_rank: int = 1


# What this repository's executor does with Transformer Engine's layers (executor/transformer.py, executor/ddp.py).
EXECUTOR = Settings(fused_loss=False, dummy_gradient=False)
