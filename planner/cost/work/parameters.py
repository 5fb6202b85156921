"""Parameters of every module and pipeline stage, as one rank holds them.

The rule: the weights of linear layers are divided over tp (those of experts over expt_tp and ep), and so are the biases
of column-parallel layers. Norms, biases of row-parallel layers, routers, patch embeddings and convolutions are whole on
every rank. The counts equal those of megatron-core 0.19's models, which the tests build on the meta device.
"""

from __future__ import annotations

from ...base.axes import Axis
from ...base.frozen import frozen
from ...layout.bridges import BYTES_OF
from ...layout.ir import ModulePlan
from ...plan import Plan
from ...spec.presets import padded_vocab_size
from ...spec.sections import Model


@frozen(kw_only=True)
class Widths:
    """The sizes of a model's layers, with none missing: widths in features, and counts.

    Attributes:
        hidden: hidden size.
        ffn: the MLP's inner size, that of its second layer's input.
        fc1: width of the MLP's first output: `ffn`, or twice that if the MLP is gated.
        heads: number of attention heads.
        head: width of one head.
        queries: width of all queries: heads times the width of a head.
        keys: width of all keys, or of all values: query groups times the width of a head.
        layers: number of layers.
        experts: number of experts; 0 for a dense model.
        topk: experts that each token visits.
        norm: parameters of one norm.
        has_bias: whether linear layers have biases.
        is_gated: whether the MLP is gated.
        is_causal: whether attention is causal: that of the language model alone.
    """

    hidden: int
    ffn: int
    fc1: int
    heads: int
    head: int
    queries: int
    keys: int
    layers: int
    experts: int
    topk: int
    norm: int
    has_bias: bool
    is_gated: bool
    is_causal: bool


def widths(model: Model) -> Widths:
    """The widths of a model whose sizes are filled in, as they are in every plan."""
    hidden, heads = model.hidden_size or 0, model.num_attention_heads or 1
    ffn, head = model.ffn_hidden_size or 0, model.kv_channels or 0
    return Widths(
        hidden=hidden,
        ffn=ffn,
        fc1=ffn * (2 if model.gated_linear_unit else 1),
        heads=heads,
        head=head,
        queries=heads * head,
        keys=(model.num_query_groups or heads) * head,
        layers=model.num_layers or 0,
        experts=model.num_moe_experts or 0,
        topk=model.moe_router_topk or 0,
        norm=hidden if model.normalization == "RMSNorm" else 2 * hidden,
        has_bias=bool(model.add_bias_linear),
        is_gated=bool(model.gated_linear_unit),
        is_causal=model.family == "gpt",
    )


@frozen(kw_only=True)
class Parameters:
    """Numbers of parameters that one rank of a stage holds.

    Attributes:
        dense: trained parameters outside experts; lanes and cp ranks can share out their optimizer state.
        experts: trained parameters of experts; the ranks of expt_dp can share out their optimizer state.
        frozen: parameters that do not train.
    """

    dense: int = 0
    experts: int = 0
    frozen: int = 0

    @property
    def total(self) -> int:
        """All parameters of the rank."""
        return self.dense + self.experts + self.frozen

    def __add__(self, other: Parameters) -> Parameters:
        return Parameters(
            dense=self.dense + other.dense, experts=self.experts + other.experts, frozen=self.frozen + other.frozen
        )


def layer_parameters(model: Model, tp: int, expt_tp: int = 1, ep: int = 1) -> tuple[int, int]:
    """(dense, expert) parameters of one transformer layer on one rank."""
    w = widths(model)
    # With fewer query groups than tp, each rank computes a share of every group's keys and values, then gathers them.
    attention = w.hidden * (w.queries + 2 * w.keys) + w.queries * w.hidden
    if w.has_bias:
        attention += w.queries + 2 * w.keys
    mlp, mlp_whole = _mlp(w)
    if not w.experts:
        return (attention + mlp) // tp + _whole(w), 0
    return attention // tp + _whole(w), w.experts // ep * (mlp // expt_tp + mlp_whole)


def summed_parameters(model: Model, num_layers: int, *, is_last: bool) -> int:
    """Parameters of a stage whose gradients megatron-core sums over tp under sequence parallelism.

    They are whole on every tp rank, and each rank has seen only its share of the sequence.
    """
    w = widths(model)
    has_norm = is_last and model.family != "vit"
    return num_layers * _whole(w) + (w.norm if has_norm else 0)


def _whole(w: Widths) -> int:
    """Dense parameters of a layer that are whole on every tp rank: norms, router, biases of row-parallel layers."""
    of_attention = 2 * w.norm + (w.hidden if w.has_bias else 0)
    if w.experts:
        return of_attention + w.hidden * w.experts + (w.experts if w.has_bias else 0)
    return of_attention + _mlp(w)[1]


def _mlp(w: Widths) -> tuple[int, int]:
    """(divided over tp, whole on every rank): parameters of one MLP or one expert."""
    return w.hidden * w.fc1 + w.ffn * w.hidden + (w.fc1 if w.has_bias else 0), w.hidden if w.has_bias else 0


def input_parameters(model: Model, tp: int) -> int:
    """Parameters before the layers of the first stage: an embedding, patches and positions, or convolutions."""
    w = widths(model)
    if model.family == "gpt":
        return padded_vocab_size(model, tp) // tp * w.hidden
    if model.family == "vit":
        patch, side = model.patch_size or 1, model.image_size or 1
        positions = (side // patch) ** 2 + 1
        return 3 * patch * patch * w.hidden + w.hidden + positions * w.hidden + w.norm
    mels = model.num_mel_bins or 0
    return 3 * mels * w.hidden + w.hidden + 3 * w.hidden * w.hidden + w.hidden


def output_parameters(model: Model, tp: int, *, is_first: bool) -> int:
    """Parameters after the layers of the last stage: a norm and the output's weights.

    Weights tied to an embedding count once if the stage holds both, that is, if it is the first stage as well.
    """
    w = widths(model)
    if model.family == "vit":  # CLIP's last norm is left out, as LLaVA uses it
        return 0
    if model.family == "audio":
        return w.norm
    is_shared = is_first and not model.untie_embeddings_and_output_weights
    return w.norm + (0 if is_shared else padded_vocab_size(model, tp) // tp * w.hidden)


def projector_parameters(model: Model, width: int, tp: int) -> int:
    """Parameters of an encoder's projection into the language model's `width`.

    It is an MLP of two layers; one linear layer if the model has no projector_hidden_size.
    """
    w, inner = widths(model), model.projector_hidden_size
    if inner is None:
        return (w.hidden * width + width) // tp
    return (w.hidden * inner + inner + inner * width) // tp + width


def parameter_bytes(plan: Plan) -> int:
    """Bytes of one parameter of the model, and of one value of its activations."""
    return BYTES_OF[plan.training.dtype]


def stage_parameters(module: ModulePlan, stage: int, width: int) -> Parameters:
    """The parameters of one rank of one stage; none if the module has no model.

    Args:
        module: the module.
        stage: the stage's index in it, from 0.
        width: hidden size of the language model, into which encoders project.
    """
    model, grid = module.model, module.grid
    if model is None or module.stages is None:
        return Parameters()
    tp, first, last = grid.size_of(Axis.TP), stage == 0, stage == module.num_stages - 1
    dense, experts = layer_parameters(model, tp, grid.size_of(Axis.EXPT_TP), grid.size_of(Axis.EP))
    body = module.stages[stage] * dense
    body += input_parameters(model, tp) if first else 0
    body += output_parameters(model, tp, is_first=first) if last else 0
    of_experts = module.stages[stage] * experts
    projector = projector_parameters(model, width, tp) if last and model.family != "gpt" else 0
    encoder_is_frozen = module.freeze.encoder
    projector_is_frozen = module.freeze.projection
    return Parameters(
        dense=(0 if encoder_is_frozen else body) + (0 if projector_is_frozen else projector),
        experts=0 if encoder_is_frozen else of_experts,
        frozen=(body + of_experts if encoder_is_frozen else 0) + (projector if projector_is_frozen else 0),
    )
