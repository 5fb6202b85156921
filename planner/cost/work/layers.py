"""Transformer layers -> work: the formulas, each once.

Symbols: T tokens of a rank, h hidden, q and k widths of queries and keys, f ffn, t tensor-parallel size, and a
microbatch's S sequences of length s, of which a rank holds s / cp. Forward of a product is 2 * T * k * n; its
backward is one product of that size for the gradient of the input, one for that of the weights. Flash attention
computes its scores again in the backward pass: 2.5 forward passes (Dao 2023, FlashAttention-2, 4.1).
"""

from __future__ import annotations

from ...base.axes import Axis
from ...base.frozen import frozen
from ...layout.ir import GroupKind, ModulePlan
from .ops import Collective, CollectiveOp, MatMul, Work
from .parameters import Widths, layer_parameters, widths
from .settings import Settings
from .tokens import Tokens

FLASH_BACKWARD = 2.5


@frozen(kw_only=True)
class LayerShape:
    """What every formula of one module's layers needs."""

    w: Widths
    tokens: Tokens
    tp: int
    cp: int
    expt_tp: int
    ep: int
    is_sequence_parallel: bool
    parameters: int
    settings: Settings
    element_bytes: int = 2  # of an activation, as collectives carry it

    @property
    def is_rotated(self) -> bool:
        """Whether queries and keys are rotated to their positions."""
        return self.w.is_causal and self.settings.rotary

    @property
    def gathers_queries(self) -> bool:
        """Whether there are fewer query groups than tp: ranks then gather all queries, keys and values, and take theirs
        (megatron-core 0.19, transformer/attention.py, get_query_key_value_tensors)."""
        return self.w.keys < self.tp * self.w.head

    @property
    def keys(self) -> float:
        """Width of the keys (or values) that a rank attends to: one group's at least."""
        return max(self.w.keys / self.tp, self.w.head)

    @property
    def split(self) -> int:
        """Ranks that share the hidden values between the products: tp under sequence parallelism."""
        return self.tp if self.is_sequence_parallel else 1


def shape_of(module: ModulePlan, tokens: Tokens, settings: Settings, element_bytes: int = 2) -> LayerShape:
    """The shape of a module with a model, whose activations take `element_bytes` each."""
    assert module.model is not None  # noqa: S101  callers ask for modules with models only
    size = module.grid.size_of
    tp, expt_tp, ep = size(Axis.TP), size(Axis.EXPT_TP), size(Axis.EP)
    return LayerShape(
        w=widths(module.model),
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
    """The forward products of a layer's weights: queries keys and values, attention's output, the MLP or experts."""
    w, rows, tp = shape.w, shape.tokens.per_rank, shape.tp
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
    """Tokens that the experts of one rank compute, visits counted one by one, when routing is even."""
    return shape.tokens.per_rank / shape.tp * shape.w.topk * shape.expt_tp


def core_flops(shape: LayerShape) -> float:
    """Forward of the attention core: scores and their product with the values, half of it under a causal mask."""
    tokens, w = shape.tokens, shape.w
    full = 4 * tokens.sequences * tokens.length**2 / shape.cp * w.queries / shape.tp
    return full / 2 if w.is_causal else full


def forward(shape: LayerShape) -> Work:
    """One layer forward."""
    w, rows = shape.w, shape.tokens.per_rank
    around = 20 + (2 if shape.settings.dropout else 0)  # two norms (4 bytes), two residual adds (6), two masks
    num_bytes = rows * (w.hidden * around / shape.split + 2 * (w.fc1 + w.ffn) / shape.tp * _visits(shape))
    if shape.is_rotated:
        num_bytes += rows * 4 * (w.queries / shape.tp + shape.keys)
    moved = Work(
        matmuls=layer_matmuls(shape), num_bytes=num_bytes, kernels=8, collectives=_tensor_collectives(shape, 1)
    )
    return moved + core_forward(shape) + Work(collectives=_other_collectives(shape, is_backward=False))


def core_forward(shape: LayerShape) -> Work:
    """The attention core alone: what selective recomputation runs again."""
    if shape.settings.flash_attention:
        return Work(core_flops=core_flops(shape))
    first, second, scores = _scores(shape)
    return Work(matmuls=(first, second), num_bytes=9 * scores)  # softmax reads and writes, dropout too, and a mask


def backward(shape: LayerShape, *, trains: bool) -> Work:
    """One layer backward: the gradient of its input, and of its weights if it trains."""
    w, rows = shape.w, shape.tokens.per_rank
    matmuls = layer_matmuls(shape)
    num_bytes = rows * (w.hidden * 22 / shape.split + 2 * (2 * w.fc1 + w.ffn) / shape.tp * _visits(shape))
    if shape.is_rotated:
        num_bytes += rows * 4 * (w.queries / shape.tp + shape.keys)
    gradients = tuple(product.input_gradient for product in matmuls)
    if trains:
        gradients += tuple(product.weight_gradient for product in matmuls)
        num_bytes += 2 * shape.settings.gradient_bytes * shape.parameters  # added to what was there
    gathers = 2 if trains and shape.is_sequence_parallel else 1
    collectives = _tensor_collectives(shape, gathers) + _other_collectives(shape, is_backward=True)
    return _core_backward(shape) + Work(matmuls=gradients, num_bytes=num_bytes, kernels=8, collectives=collectives)


def _core_backward(shape: LayerShape) -> Work:
    if shape.settings.flash_attention:
        return Work(core_flops=FLASH_BACKWARD * core_flops(shape))
    first, second, scores = _scores(shape)
    return Work(matmuls=(first, second, second, second), num_bytes=11 * scores)


def _scores(shape: LayerShape) -> tuple[MatMul, MatMul, float]:
    """Both products of an attention that writes its scores, and the number of scores."""
    tokens, w = shape.tokens, shape.w
    heads = tokens.sequences * w.heads / shape.tp
    local = tokens.length / shape.cp
    first, second = MatMul(local, w.head, tokens.length, heads), MatMul(local, tokens.length, w.head, heads)
    return first, second, heads * local * tokens.length


def _visits(shape: LayerShape) -> float:
    """How often a token passes through an MLP of this rank's, tensor parallelism taken out."""
    return expert_tokens(shape) / shape.tokens.per_rank * shape.tp / shape.expt_tp if shape.w.experts else 1.0


def _tensor_collectives(shape: LayerShape, gathers: int) -> tuple[Collective, ...]:
    """Tensor parallelism, once around attention and once around the MLP. `gathers`: per input, as it is gathered again.

    Experts exchange tokens instead (below), so that a layer of experts has only attention's.
    """
    if shape.tp == 1:
        return ()
    buffer = shape.element_bytes * shape.tokens.per_rank * shape.w.hidden
    around = 1 if shape.w.experts else 2
    if not shape.is_sequence_parallel:
        return (Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, buffer, around),)
    return (
        Collective(GroupKind.TP, CollectiveOp.ALL_GATHER, buffer, around * gathers),
        Collective(GroupKind.TP, CollectiveOp.REDUCE_SCATTER, buffer, around),
    )


def _other_collectives(shape: LayerShape, *, is_backward: bool) -> tuple[Collective, ...]:
    """Ranks that share a query group gather it; context parallelism passes keys and values around, backward their
    gradients too; experts exchange tokens, and the weight of each visit."""
    found: tuple[Collective, ...] = ()
    if shape.gathers_queries:
        how = CollectiveOp.REDUCE_SCATTER if is_backward else CollectiveOp.ALL_GATHER
        whole = shape.element_bytes * shape.tokens.per_rank * (shape.w.queries + 2 * shape.w.keys)
        found += (Collective(GroupKind.TP, how, whole),)
    if shape.cp > 1:
        block = shape.element_bytes * 2 * shape.tokens.per_rank * shape.keys
        found += (Collective(GroupKind.CP, CollectiveOp.RING, block, 2 if is_backward else 1),)
    if shape.w.experts and shape.ep > 1:
        visits = shape.tokens.per_rank / shape.tp * shape.w.topk
        found += (
            Collective(GroupKind.EP, CollectiveOp.ALL_TO_ALL, shape.element_bytes * visits * shape.w.hidden, 2),
            Collective(GroupKind.EP, CollectiveOp.ALL_TO_ALL, shape.element_bytes * visits),
        )
    if shape.w.experts and shape.expt_tp > 1:
        weights = shape.element_bytes * expert_tokens(shape)
        gathered, way = (
            weights * shape.w.hidden,
            CollectiveOp.REDUCE_SCATTER if is_backward else CollectiveOp.ALL_GATHER,
        )
        found += (
            Collective(GroupKind.EXPT_TP, CollectiveOp.ALL_GATHER, gathered),
            Collective(GroupKind.EXPT_TP, CollectiveOp.REDUCE_SCATTER, gathered),
            Collective(GroupKind.EXPT_TP, way, weights),
        )
    return found
