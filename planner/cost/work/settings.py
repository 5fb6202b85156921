"""What a prediction assumes of the training software beside the plan."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Settings:
    """The defaults are a MimoModel of Transformer Engine's layers, with rotary positions and Megatron-LM's fusions.

    Attributes:
        flash_attention: scores are never written to memory.
        score_bytes: where scores are written, what is kept of each: softmax 2, dropout's mask 1 and its output 2; a
            softmax in fp32 beside its copy in bf16 is 6.
        rotary: causal models rotate queries and keys.
        fused_activation: the MLP's activation is one kernel, which keeps its input alone; else what is in between too.
        dropout: dropout of 1 byte of mask per hidden value, twice a layer.
        fused_loss: the cross entropy is Transformer Engine's kernel over the logits, in their place.
        gradient_bytes: of each gradient that is accumulated and reduced.
        dummy_gradient: Transformer Engine's placeholder for the weight gradients of one layer, in the weights' dtype.
        num_workspaces: of cuBLAS: PyTorch's, and Transformer Engine's own.
        scattered_embedding: under sequence parallelism a language model that nothing feeds scatters its embedding's sum
            over tp; else, as in MimoModel, the sum is whole and scattered afterwards, without a message.
        scattered_hops: between stages each tp rank sends its share, and all gather after it: Megatron-LM of 2021.
        stages_per_rank: slices of an interleaved schedule; only memory and the bubble of measured runs know it.
    """

    flash_attention: bool = True
    score_bytes: int = 5
    rotary: bool = True
    fused_activation: bool = True
    dropout: bool = False
    fused_loss: bool = False
    gradient_bytes: int = 4
    dummy_gradient: bool = True
    num_workspaces: int = 2
    scattered_embedding: bool = False
    scattered_hops: bool = False
    stages_per_rank: int = 1


# What this repository's executor does with Transformer Engine's layers (executor/transformer.py, executor/ddp.py).
EXECUTOR = Settings(score_bytes=6, fused_activation=False, dummy_gradient=False)
