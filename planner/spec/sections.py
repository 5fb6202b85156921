"""The sections of a spec as frozen classes: cluster, batch, modules and training. `Spec` (spec.py) puts them together.

Each field says what its value may be and what it means. The JSON Schema and the tables in docs/spec.md are made from
this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base import codes
from ..base.axes import DEFAULT_ORDER, Axis
from ..base.errors import Faults
from ..base.frozen import frozen
from .fields import Array, Choice, Flag, Integer, Line, Order, Positive, Record, field

MIMO_LANGUAGE_MODULE_KEY = "language"
MAX_MODULES = 256
MAX_STAGES = 4096  # of a module: its stages can be listed in every spec and plan
_SIZE = Integer(1)


@frozen(kw_only=True)
class Cluster:
    """The machines. If both numbers are given, the world has nodes * gpus_per_node ranks."""

    nodes: int | None = field(_SIZE, default=None, doc="number of nodes")
    gpus_per_node: int | None = field(_SIZE, default=None, doc="number of GPUs per node, each of them one rank")
    gpu: str | None = field(
        Line(255), default=None, doc="name of the GPU, such as h100, or a hardware file, for predictions"
    )


@frozen(kw_only=True)
class Batch:
    """Samples per step and per microbatch, and the length of a sample."""

    global_size: int = field(_SIZE, doc="samples per optimizer step")
    micro_size: int = field(
        _SIZE, doc="samples per microbatch of the whole model; each module shares them out among its lanes"
    )
    seq_length: int = field(_SIZE, doc="tokens per sample in the language module")


@frozen(kw_only=True)
class Parallel:
    """The sizes of a module's axes. An axis that is left out has size 1, but dp follows from the number of ranks."""

    tp: int = field(_SIZE, default=1, doc="tensor-parallel size")
    cp: int = field(_SIZE, default=1, doc="context-parallel size")
    pp: int = field(Integer(1, MAX_STAGES), default=1, doc="pipeline-parallel size: the number of stages")
    dp: int | None = field(
        _SIZE,
        default=None,
        doc="data-parallel size: the number of lanes; it follows from the number of ranks if left out",
    )
    ep: int = field(_SIZE, default=1, doc="expert-parallel size (language only)")
    expt_tp: int = field(_SIZE, default=1, doc="tensor-parallel size of the experts (language only)")
    rank_offset: int | None = field(
        Integer(0), default=None, doc="first rank of the module; for every module or for none"
    )
    order: tuple[Axis, ...] = field(Order(), default=DEFAULT_ORDER, doc="order of the axes, fastest first")
    sequence_parallel: bool = field(Flag(), default=False, doc="whether sequences are split over tp between the layers")


_FAMILIES = ("gpt", "vit", "audio")
_NORMALIZATIONS = ("LayerNorm", "RMSNorm")
_ACTIVATIONS = ("gelu", "quick_gelu", "silu", "relu")


@frozen(kw_only=True)
class Model:
    """The sizes of a module's model: a preset, a family with its sizes, or a preset with some sizes replaced.

    A size has the name that megatron-core's TransformerConfig gives it, if it has one there.
    """

    preset: str | None = field(Line(), default=None, doc="name of a preset")
    family: str | None = field(Choice(_FAMILIES), default=None, doc="kind of model")
    num_layers: int | None = field(_SIZE, default=None, doc="number of transformer layers")
    hidden_size: int | None = field(_SIZE, default=None, doc="width of the residual stream")
    ffn_hidden_size: int | None = field(
        _SIZE,
        default=None,
        doc="inner width of the MLP; 4 * hidden_size if left out",
    )
    num_attention_heads: int | None = field(_SIZE, default=None, doc="number of attention heads")
    num_query_groups: int | None = field(
        _SIZE,
        default=None,
        doc="number of key/value heads (GQA); num_attention_heads if left out",
    )
    kv_channels: int | None = field(
        _SIZE,
        default=None,
        doc="width of a head; hidden_size / num_attention_heads if left out",
    )
    num_moe_experts: int | None = field(
        _SIZE,
        default=None,
        doc="number of experts per layer; layers are dense if left out",
    )
    moe_router_topk: int | None = field(
        _SIZE,
        default=None,
        doc="number of experts that each token visits; at most 2 if left out",
    )
    normalization: str | None = field(
        Choice(_NORMALIZATIONS), default=None, doc="kind of normalization; LayerNorm if left out"
    )
    activation: str | None = field(
        Choice(_ACTIVATIONS),
        default=None,
        doc="activation of the MLP; gelu if left out",
    )
    gated_linear_unit: bool | None = field(
        Flag(), default=None, doc="whether the MLP is gated (SwiGLU); false if left out"
    )
    add_bias_linear: bool | None = field(
        Flag(), default=None, doc="whether linear layers have biases; true if left out"
    )
    untie_embeddings_and_output_weights: bool | None = field(
        Flag(), default=None, doc="whether the output layer has weights of its own (gpt); false if left out"
    )
    vocab_size: int | None = field(_SIZE, default=None, doc="size of the vocabulary before padding (gpt)")
    max_positions: int | None = field(
        _SIZE, default=None, doc="longest sequence in tokens (gpt), or number of frames (audio)"
    )
    image_size: int | None = field(_SIZE, default=None, doc="side of the image, in pixels (vit)")
    patch_size: int | None = field(_SIZE, default=None, doc="side of a patch, in pixels (vit)")
    num_mel_bins: int | None = field(_SIZE, default=None, doc="number of mel bins of the spectrogram (audio)")
    projector_hidden_size: int | None = field(
        _SIZE, default=None, doc="inner width of the projector MLP (encoders); the projector is one layer if left out"
    )


@frozen(kw_only=True)
class Output:
    """The form of the tensor that a module hands on."""

    tensor_dims: int | None = field(
        Integer(2, 3),
        default=None,
        doc="number of dims: 2 for (tokens, hidden), 3 if there is a batch dim as well; if left out, 2 for what "
        "is before language, unless batch_dim is written, and else 3",
    )
    batch_dim: int | None = field(Integer(0, 1), default=None, doc="which of the dims is the batch dim; 0 if left out")
    tokens_per_sample: int | None = field(_SIZE, default=None, doc="number of tokens per sample; it varies if left out")

    def __attrs_post_init__(self) -> None:
        if self.tensor_dims == 2 and self.batch_dim:
            faults = Faults()
            rule = f"a tensor of 2 dims (tokens, hidden) has its samples in dim 0, got batch_dim = {self.batch_dim}"
            faults.add(codes.CONFLICT, ("batch_dim",), rule, "remove batch_dim, or set tensor_dims: 3")
            faults.raise_errors()


@frozen(kw_only=True)
class Freeze:
    """The parts of a module that are not trained. `freeze: true` freezes all of it, the only form for language."""

    encoder: bool = field(Flag(), default=False, doc="whether the encoder is frozen")
    projection: bool = field(
        Flag(), default=False, doc="whether the projection into the language model's width is frozen"
    )

    @property
    def all(self) -> bool:
        """Whether no part of the module is trained."""
        return self.encoder and self.projection


def _freeze_all(value: bool) -> Mapping[str, Any]:
    return {"encoder": value, "projection": value}


@frozen(kw_only=True)
class Module:
    """A module: a node of the DAG."""

    parallel: Parallel | None = field(Record(Parallel), default=None, doc="sizes of the parallel axes")
    model: Model | None = field(Record(Model), default=None, doc="sizes of the model")
    output: Output = field(Record(Output), default=Output(), doc="form of the output tensor")
    special_token_id: int | None = field(
        Integer(0), default=None, doc="id in input_ids that marks where the output goes"
    )
    freeze: Freeze = field(Record(Freeze, shorthand=_freeze_all), default=Freeze(), doc="parts that are not trained")
    recompute: str = field(
        Choice(("none", "selective", "full")),
        default="none",
        doc="activations that the backward pass computes again",
    )
    stages: tuple[int, ...] | None = field(
        Array(_SIZE, MAX_STAGES), default=None, doc="number of layers of each stage, if they differ"
    )


@frozen(kw_only=True)
class Training:
    """How the executor trains, and what predictions assume."""

    dtype: str = field(Choice(("bf16", "fp16", "fp32")), default="bf16", doc="dtype of parameters and activations")
    optimizer: str = field(Choice(("adam", "sgd")), default="adam", doc="the optimizer")
    lr: float = field(Positive(1e6), default=1e-4, doc="learning rate")
    distributed_optimizer: bool = field(Flag(), default=False, doc="whether the lanes share the state of the optimizer")
