"""The work of a transformer layer: every formula stands here, once.

A linear layer of T tokens from k to n features takes 2 * T * k * n FLOPs forward. Its backward pass takes as many for
the gradient of the input, and as many again for the gradient of the weights. Flash attention computes its scores again
in the backward pass, which takes 2.5 times the FLOPs of the forward pass (Dao 2023, FlashAttention-2, section 4.1).
"""

from __future__ import annotations

from ...base.axes import Axis
from ...base.frozen import frozen
from ...layout.ir import GroupKind, ModulePlan
from .ops import Collective, CollectiveOp, MatMul, Work
from .parameters import Widths, layer_parameters, widths
from .settings import Settings
from .tokens import Tokens

FLASH_BACKWARD = 2.5  # FLOPs of flash attention's backward pass over those of its forward pass


@frozen(kw_only=True)
class LayerShape:
    """All that the formulas of a module's layers need.

    Attributes:
        widths: the sizes of the model's layers.
        tokens: the tokens of one microbatch of a lane.
        tp, cp, expt_tp, ep: the sizes of the module's axes.
        is_sequence_parallel: whether tp ranks share the sequence between the linear layers.
        parameters: parameters of one layer on one rank.
        settings: what is assumed of the training software.
        element_bytes: bytes of one value of an activation.
    """

    widths: Widths
    tokens: Tokens
    tp: int
    cp: int
    expt_tp: int
    ep: int
    is_sequence_parallel: bool
    parameters: int
    settings: Settings
    element_bytes: int = 2

    @property
    def is_rotated(self) -> bool:
        """Whether queries and keys are rotated to their positions."""
        return self.widths.is_causal and self.settings.rotary

    @property
    def gathers_queries(self) -> bool:
        """Whether there are fewer query groups than tp ranks.

        Each rank then gathers all queries, keys and values and takes its own of them (megatron-core 0.19,
        transformer/attention.py, get_query_key_value_tensors).
        """
        return self.widths.keys < self.tp * self.widths.head

    @property
    def keys(self) -> float:
        """Width of the keys, or of the values, that a rank attends to: at least that of one query group."""
        return max(self.widths.keys / self.tp, self.widths.head)

    @property
    def split(self) -> int:
        """Number of ranks that share the hidden values between the linear layers: tp under sequence parallelism."""
        return self.tp if self.is_sequence_parallel else 1


def shape_of(module: ModulePlan, tokens: Tokens, settings: Settings, element_bytes: int = 2) -> LayerShape:
    """The shape of a module's layers; the module must have a model.

    Args:
        module: the module.
        tokens: the tokens of one microbatch of a lane.
        settings: what is assumed of the training software.
        element_bytes: bytes of one value of an activation.
    """
    assert module.model is not None  # noqa: S101  callers ask for modules with models only
    size = module.grid.size_of
    tp, expt_tp, ep = size(Axis.TP), size(Axis.EXPT_TP), size(Axis.EP)
    return LayerShape(
        widths=widths(module.model),
        tokens=tokens,
        tp=tp,
        cp=size(Axis.CP),
        expt_tp=expt_tp,
        ep=ep,
        is_sequence_parallel=module.sequence_parallel and tp > 1,
        parameters=sum(layer_parameters(module.model, tp, expt_tp, ep)),
        settings=settings,
        element_bytes=element_bytes,
    )


def layer_matmuls(shape: LayerShape) -> tuple[MatMul, ...]:
    """The matrix products of a layer's weights in the forward pass.

    They are those of queries, keys and values, of attention's output, and of the MLP, or of the router and experts.
    """
    w, rows, tp = shape.widths, shape.tokens.per_rank, shape.tp
    attention = (MatMul(rows, w.hidden, (w.queries + 2 * w.keys) / tp), MatMul(rows, w.queries / tp, w.hidden))
    if not w.experts:
        return (*attention, MatMul(rows, w.hidden, w.fc1 / tp), MatMul(rows, w.ffn / tp, w.hidden))
    local = w.experts / shape.ep
    per_expert = expert_tokens(shape) / local
    return (
        *attention,
        MatMul(rows / shape.split, w.hidden, w.experts),
        MatMul(per_expert, w.hidden, w.fc1 / shape.expt_tp, local),
        MatMul(per_expert, w.ffn / shape.expt_tp, w.hidden, local),
    )


def expert_tokens(shape: LayerShape) -> float:
    """Visits of tokens to the experts of one rank, if the router spreads them evenly."""
    return shape.tokens.per_rank / shape.tp * shape.widths.topk * shape.expt_tp


def core_flops(shape: LayerShape) -> float:
    """FLOPs of the attention core forward: the scores, and their product with the values; half if it is causal."""
    tokens, w = shape.tokens, shape.widths
    full = 4 * tokens.sequences * tokens.length**2 / shape.cp * w.queries / shape.tp
    return full / 2 if w.is_causal else full


def forward(shape: LayerShape) -> Work:
    """The forward pass of one layer."""
    w, rows = shape.widths, shape.tokens.per_rank
    # Bytes per hidden value: two norms of 4, two residual additions of 6, and two masks of 1 if there is dropout.
    each = 20 + (2 if shape.settings.dropout else 0)
    num_bytes = rows * (w.hidden * each / shape.split + 2 * (w.fc1 + w.ffn) / shape.tp * _visits(shape))
    if shape.is_rotated:
        num_bytes += rows * 4 * (w.queries / shape.tp + shape.keys)
    around = Work(
        matmuls=layer_matmuls(shape), num_bytes=num_bytes, kernels=8, collectives=_tensor_collectives(shape, 1)
    )
    return around + core_forward(shape) + Work(collectives=_other_collectives(shape, is_backward=False))


def core_forward(shape: LayerShape) -> Work:
    """The attention core alone, which selective recomputation runs again."""
    if shape.settings.flash_attention:
        return Work(core_flops=core_flops(shape))
    first, second, scores = _scores(shape)
    # Bytes per score: softmax and dropout read 2 and write 2 each, and dropout reads a mask of 1.
    return Work(matmuls=(first, second), num_bytes=9 * scores)


def backward(shape: LayerShape, *, trains: bool) -> Work:
    """The backward pass of one layer: the gradient of its input, and those of its weights if they train."""
    w, rows = shape.widths, shape.tokens.per_rank
    matmuls = layer_matmuls(shape)
    num_bytes = rows * (w.hidden * 22 / shape.split + 2 * (2 * w.fc1 + w.ffn) / shape.tp * _visits(shape))
    if shape.is_rotated:
        num_bytes += rows * 4 * (w.queries / shape.tp + shape.keys)
    gradients = tuple(matmul.input_gradient for matmul in matmuls)
    if trains:
        gradients += tuple(matmul.weight_gradient for matmul in matmuls)
        num_bytes += 2 * shape.settings.gradient_bytes * shape.parameters  # read, added to and written
    gathers = 2 if trains and shape.is_sequence_parallel else 1
    collectives = _tensor_collectives(shape, gathers) + _other_collectives(shape, is_backward=True)
    return _core_backward(shape) + Work(matmuls=gradients, num_bytes=num_bytes, kernels=8, collectives=collectives)


def _core_backward(shape: LayerShape) -> Work:
    if shape.settings.flash_attention:
        return Work(core_flops=FLASH_BACKWARD * core_flops(shape))
    first, second, scores = _scores(shape)
    return Work(matmuls=(first, second, second, second), num_bytes=11 * scores)


def _scores(shape: LayerShape) -> tuple[MatMul, MatMul, float]:
    """The two matrix products of an attention core that writes its scores, and the number of scores."""
    tokens, w = shape.tokens, shape.widths
    heads = tokens.sequences * w.heads / shape.tp
    local = tokens.length / shape.cp
    first, second = MatMul(local, w.head, tokens.length, heads), MatMul(local, tokens.length, w.head, heads)
    return first, second, heads * local * tokens.length


def _visits(shape: LayerShape) -> float:
    """How many MLPs each token passes through: topk experts, or one MLP."""
    return expert_tokens(shape) / shape.tokens.per_rank * shape.tp / shape.expt_tp if shape.widths.experts else 1.0


def _tensor_collectives(shape: LayerShape, gathers: int) -> tuple[Collective, ...]:
    """The collectives of tensor parallelism: once for attention and once for the MLP.

    A layer of experts has only those of attention: experts exchange tokens instead, see `_other_collectives`.

    Args:
        shape: the shape of the layer.
        gathers: how often an input is gathered under sequence parallelism: again in the backward pass if weights train.
    """
    if shape.tp == 1:
        return ()
    num_bytes = shape.element_bytes * shape.tokens.per_rank * shape.widths.hidden
    times = 1 if shape.widths.experts else 2
    if not shape.is_sequence_parallel:
        return (Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, num_bytes, times),)
    return (
        Collective(GroupKind.TP, CollectiveOp.ALL_GATHER, num_bytes, times * gathers),
        Collective(GroupKind.TP, CollectiveOp.REDUCE_SCATTER, num_bytes, times),
    )


def _other_collectives(shape: LayerShape, *, is_backward: bool) -> tuple[Collective, ...]:
    """The collectives of shared query groups, of context parallelism and of experts.

    Ranks that share a query group gather it. Context parallelism passes keys and values around a ring, and in the
    backward pass their gradients as well. Experts exchange tokens, and the router's weight of each visit.
    """
    found: tuple[Collective, ...] = ()
    op = CollectiveOp.REDUCE_SCATTER if is_backward else CollectiveOp.ALL_GATHER
    if shape.gathers_queries:
        whole = shape.element_bytes * shape.tokens.per_rank * (shape.widths.queries + 2 * shape.widths.keys)
        found += (Collective(GroupKind.TP, op, whole),)
    if shape.cp > 1:
        block = shape.element_bytes * 2 * shape.tokens.per_rank * shape.keys
        found += (Collective(GroupKind.CP, CollectiveOp.RING, block, 2 if is_backward else 1),)
    if shape.widths.experts and shape.ep > 1:
        visits = shape.tokens.per_rank / shape.tp * shape.widths.topk
        found += (
            Collective(GroupKind.EP, CollectiveOp.ALL_TO_ALL, shape.element_bytes * visits * shape.widths.hidden, 2),
            Collective(GroupKind.EP, CollectiveOp.ALL_TO_ALL, shape.element_bytes * visits),
        )
    if shape.widths.experts and shape.expt_tp > 1:
        weights = shape.element_bytes * expert_tokens(shape)
        tokens = weights * shape.widths.hidden
        found += (
            Collective(GroupKind.EXPT_TP, CollectiveOp.ALL_GATHER, tokens),
            Collective(GroupKind.EXPT_TP, CollectiveOp.REDUCE_SCATTER, tokens),
            Collective(GroupKind.EXPT_TP, op, weights),
        )
    return found
