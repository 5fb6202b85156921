"""What a prediction assumes of the training software, beside the plan."""

from __future__ import annotations

from ...base.frozen import frozen
from ...spec.fields import Flag, Integer, Record, field


@frozen(kw_only=True)
class Settings:
    """The defaults describe a MimoModel with Transformer Engine's layers, rotary positions and Megatron-LM's fusions.

    A file of runs may set these fields, as `software.FIELD`; so each has a rule and says what it means.
    """

    flash_attention: bool = field(Flag(), default=True, doc="attention scores are never written to memory")
    # Softmax 2, dropout's mask 1 and its output 2. A softmax in fp32 beside its copy in bf16 is 6.
    score_bytes: int = field(Integer(1, 64), default=5, doc="bytes kept of each attention score that is written")
    rotary: bool = field(Flag(), default=True, doc="causal models rotate queries and keys")
    fused_activation: bool = field(
        Flag(), default=True, doc="the MLP's activation is one kernel that keeps only its input"
    )
    dropout: bool = field(Flag(), default=False, doc="dropout twice a layer, with a mask of 1 byte per hidden value")
    fused_loss: bool = field(
        Flag(), default=False, doc="the cross entropy is Transformer Engine's kernel, which overwrites the logits"
    )
    gradient_bytes: int = field(Integer(1, 16), default=4, doc="bytes of each accumulated and reduced gradient")
    dummy_gradient: bool = field(
        Flag(), default=True, doc="Transformer Engine's placeholder for one layer's weight gradients, in their dtype"
    )
    num_workspaces: int = field(
        Integer(0, 64), default=2, doc="workspaces of cuBLAS: PyTorch's and Transformer Engine's own"
    )
    # Else, as in MimoModel, the sum is whole on every rank and is scattered afterwards, without a message.
    scattered_embedding: bool = field(
        Flag(),
        default=False,
        doc="with sequence parallelism, a language model that nothing feeds scatters its embedding's sum over tp",
    )
    scattered_hops: bool = field(
        Flag(),
        default=False,
        doc="between stages each tp rank sends its share and all gather afterwards, as Megatron-LM of 2021 does",
    )
    stages_per_rank: int = field(
        Integer(1, 4096),
        default=1,
        doc="slices of an interleaved schedule, known only to the memory and the bubble of measured runs",
    )


SETTINGS_TYPE = Record(Settings)

# What this repository's executor does with Transformer Engine's layers (executor/model/, executor/training/ddp.py).
EXECUTOR = Settings(score_bytes=6, fused_activation=False, dummy_gradient=False)
