"""What a prediction assumes about the training software, beside what the plan says."""

from __future__ import annotations

from ...base.frozen import frozen
from ...spec.fields import Flag, Integer, Record, field


@frozen(kw_only=True)
class Settings:
    """Assumptions about the training software.

    The defaults describe a MimoModel with Transformer Engine's layers, rotary positions and Megatron-LM's fused
    kernels. A file of runs may set each of these fields as `software.FIELD`, which is why they have types and docs.
    """

    flash_attention: bool = field(Flag(), default=True, doc="attention scores are never written to memory")
    # 2 of the softmax, 1 of dropout's mask and 2 of its output. A softmax in fp32 and its copy in bf16 make 6.
    score_bytes: int = field(Integer(1, 64), default=5, doc="bytes kept for each attention score that is written")
    rotary: bool = field(Flag(), default=True, doc="causal models rotate queries and keys")
    fused_activation: bool = field(
        Flag(), default=True, doc="the MLP's activation is one kernel that keeps only its input"
    )
    dropout: bool = field(
        Flag(), default=False, doc="each layer has dropout twice, with a mask of 1 byte per hidden value"
    )
    fused_loss: bool = field(
        Flag(), default=False, doc="the cross entropy is one kernel of Transformer Engine, which overwrites the logits"
    )
    gradient_bytes: int = field(
        Integer(1, 16), default=4, doc="bytes of each gradient, as it is accumulated and reduced"
    )
    dummy_gradient: bool = field(
        Flag(),
        default=True,
        doc="Transformer Engine keeps a placeholder for one layer's weight gradients, in the weights' dtype",
    )
    num_workspaces: int = field(
        Integer(0, 64), default=2, doc="number of cuBLAS workspaces: PyTorch's and Transformer Engine's own"
    )
    # Otherwise, as in MimoModel, the sum is whole on every rank, and each then takes its share without a collective.
    scattered_embedding: bool = field(
        Flag(),
        default=False,
        doc="under sequence parallelism, a language model that no module feeds scatters its embedding's sum over tp",
    )
    scattered_hops: bool = field(
        Flag(),
        default=False,
        doc="between stages each tp rank sends its share and all gather afterwards, as in Megatron-LM of 2021",
    )
    stages_per_rank: int = field(
        Integer(1, 4096),
        default=1,
        doc="stages of an interleaved schedule on each rank; only the memory and the bubble of measured runs know it",
    )


SETTINGS_TYPE = Record(Settings)

# This repository's executor with Transformer Engine's layers (executor/model/, executor/training/ddp.py).
EXECUTOR = Settings(score_bytes=6, fused_activation=False, dummy_gradient=False)
