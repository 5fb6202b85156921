"""Parameters of every module, part and pipeline stage, as one rank holds them.

The rule: products are divided over tp (experts over expt_tp and ep), and with them the biases of column-parallel
ones; norms, the biases of row-parallel products, routers, patch embeddings and convolutions are whole on every rank.
The counts equal those of megatron-core 0.19's models, which tests build on the meta device.
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
    """The sizes of a model's layers, none of them missing. In features, but `experts` and `topk`.

    `queries` and `keys` are heads times the width of a head: of the queries, and of the keys (or values) alone.
    `fc1` is the MLP's first output: twice `ffn` where the MLP is gated.
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
    """The widths of a model whose sizes are filled in, as those of every plan are."""
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
    """Numbers of parameters that one rank of a stage holds, by what happens to them.

    Attributes:
        dense: trained, whose optimizer state is shared out over dp and cp.
        experts: trained, shared out over expt_dp only.
        frozen: without gradients.
    """

    dense: int = 0
    experts: int = 0
    frozen: int = 0

    @property
    def total(self) -> int:
        return self.dense + self.experts + self.frozen

    def __add__(self, other: Parameters) -> Parameters:
        return Parameters(
            dense=self.dense + other.dense, experts=self.experts + other.experts, frozen=self.frozen + other.frozen
        )


def layer_parameters(model: Model, tp: int, expt_tp: int = 1, ep: int = 1) -> tuple[int, int]:
    """(dense, expert) parameters of one transformer layer on one rank."""
    w = widths(model)
    # Fewer query groups than tp: each rank computes a share of every head's keys and values, then gathers them.
    attention = w.hidden * (w.queries + 2 * w.keys) + w.queries * w.hidden
    if w.has_bias:
        attention += w.queries + 2 * w.keys
    mlp, mlp_whole = _mlp(w)
    if not w.experts:
        return (attention + mlp) // tp + _whole(w), 0
    return attention // tp + _whole(w), w.experts // ep * (mlp // expt_tp + mlp_whole)


def summed_parameters(model: Model, num_layers: int, *, is_last: bool) -> int:
    """Parameters whose gradients sequence parallelism leaves as sums over a part of the sequence: they are whole on
    every tp rank, and megatron-core adds them up over tp."""
    w = widths(model)
    has_norm = is_last and model.family != "vit"
    return num_layers * _whole(w) + (w.norm if has_norm else 0)


def _whole(w: Widths) -> int:
    """Dense parameters of a layer that are whole on every tp rank: norms, router, biases of row-parallel products."""
    of_attention = 2 * w.norm + (w.hidden if w.has_bias else 0)
    if w.experts:
        return of_attention + w.hidden * w.experts + (w.experts if w.has_bias else 0)
    return of_attention + _mlp(w)[1]


def _mlp(w: Widths) -> tuple[int, int]:
    """(divided, whole) parameters of one MLP or one expert."""
    return w.hidden * w.fc1 + w.ffn * w.hidden + (w.fc1 if w.has_bias else 0), w.hidden if w.has_bias else 0


def input_parameters(model: Model, tp: int) -> int:
    """What the first stage holds before its layers: embedding, patches and positions, or convolutions."""
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
    """What the last stage holds after its layers: norm and output weights. Tied weights of one stage count once."""
    w = widths(model)
    if model.family == "vit":  # CLIP's last norm is left out, as LLaVA uses it
        return 0
    if model.family == "audio":
        return w.norm
    is_shared = is_first and not model.untie_embeddings_and_output_weights
    return w.norm + (0 if is_shared else padded_vocab_size(model, tp) // tp * w.hidden)


def projector_parameters(model: Model, width: int, tp: int) -> int:
    """An encoder's projection into language's `width`: a two-layer MLP, or one linear layer without an inner width."""
    w, inner = widths(model), model.projector_hidden_size
    if inner is None:
        return (w.hidden * width + width) // tp
    return (w.hidden * inner + inner + inner * width) // tp + width


def parameter_bytes(plan: Plan) -> int:
    """Bytes of one parameter of the model, and of one value of its activations."""
    return BYTES_OF[plan.training.dtype]


def stage_parameters(module: ModulePlan, stage: int, width: int) -> Parameters:
    """The parameters of one rank of one stage; none where the module has no model.

    Args:
        module: the module.
        stage: 0-based.
        width: hidden size of language, into which encoders project.
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
