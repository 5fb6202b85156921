"""The work of a stage: which parts it has, and what the forward and backward passes of each must do.

A part that neither trains nor is asked for the gradient of its input has no backward pass; facts.py has the rule.
"""

from __future__ import annotations

from ...layout.bridges import tokens_handed_on
from ...layout.ir import GroupKind, ModulePlan
from ...plan import Plan
from ...spec.presets import padded_vocab_size
from . import layers
from .facts import Gradients, StageFacts
from .layers import LayerShape
from .ops import Collective, CollectiveOp, MatMul, StagePart, StageWork, Work
from .parameters import widths

# Bytes per logit that the cross entropy reads and writes, forward and backward together: fused, or kernels in fp32.
LOSS_BYTES = {True: 16, False: 56}


def stage_work(plan: Plan, stage: StageFacts) -> StageWork:
    """The work of one microbatch on one rank of a stage; empty if its module has no model."""
    module, shape, gradients = stage.module, stage.shape, stage.gradients
    if module.model is None or shape is None:
        return StageWork(parts=())
    parts = [layer_part(shape, stage.num_layers, module.recompute, gradients)]
    is_text = module.model.family == "gpt"
    if stage.is_first:
        parts.append(
            _embedding(plan, module, shape, gradients) if is_text else _encoder_input(module, shape, gradients)
        )
    if stage.is_last:
        parts.append(_head(module, shape, gradients) if is_text else _projector(plan, stage, shape))
    return StageWork(parts=tuple(parts))


def layer_part(shape: LayerShape, count: int, recompute: str, gradients: Gradients) -> StagePart:
    """The transformer layers of a stage, with what recomputation adds to their backward pass.

    Args:
        shape: the shape of a layer.
        count: the number of layers.
        recompute: `none`, `selective` or `full`, as in the spec.
        gradients: what trains in the stage.
    """
    forward = layers.forward(shape)
    has_backward = gradients.before or gradients.body
    backward = layers.backward(shape, trains=gradients.body) if has_backward else Work()
    launches = 2 if has_backward else 1
    if has_backward and recompute == "full":
        backward, launches = backward + forward, 3
    elif has_backward and recompute == "selective":
        backward += layers.core_forward(shape)
    return StagePart(name="layers", count=count, forward=forward, backward=backward, launches=launches)


def _linear(name: str, matmuls: tuple[MatMul, ...], *, trains: bool, before: bool, num_bytes: float) -> StagePart:
    """A part of linear layers, one after the other, whose other kernels move `num_bytes` in each direction.

    `before` says whether a gradient must leave the part.
    """
    backward: tuple[MatMul, ...] = ()
    if trains:
        backward += tuple(matmul.weight_gradient for matmul in matmuls)
    if before or trains:  # between the layers of the part too; for the first layer only if it must leave the part
        backward += tuple(matmul.input_gradient for matmul in (matmuls if before else matmuls[1:]))
    forward = Work(matmuls=matmuls, num_bytes=num_bytes, kernels=2)
    gradient = Work(matmuls=backward, num_bytes=num_bytes, kernels=2) if backward else Work()
    return StagePart(name=name, count=1, forward=forward, backward=gradient)


def _hidden_collectives(shape: LayerShape) -> tuple[Collective, ...]:
    """The sum over tp of hidden values, or of their gradients; scattered under sequence parallelism."""
    if shape.tp == 1:
        return ()
    op = CollectiveOp.REDUCE_SCATTER if shape.is_sequence_parallel else CollectiveOp.ALL_REDUCE
    return (Collective(GroupKind.TP, op, _hidden_bytes(shape)),)


def _gathered_collectives(shape: LayerShape) -> tuple[Collective, ...]:
    """Hidden values gathered over tp, if sequence parallelism has scattered them."""
    if not shape.is_sequence_parallel:
        return ()
    return (Collective(GroupKind.TP, CollectiveOp.ALL_GATHER, _hidden_bytes(shape)),)


def _hidden_bytes(shape: LayerShape) -> float:
    return shape.element_bytes * shape.tokens.per_rank * shape.widths.hidden


def _embedding(plan: Plan, module: ModulePlan, shape: LayerShape, gradients: Gradients) -> StagePart:
    """The embedding: rows are copied in the forward pass and added up in the backward pass, without a matrix product.

    MimoModel looks up the tokens of text alone. It sums them over tp, under sequence parallelism too, because it
    scatters the sequence itself once the tokens of all modules are in their places. The gradient is gathered in both
    cases.
    """
    num_bytes = 4 * shape.tokens.per_rank * shape.widths.hidden
    backward = Work(num_bytes=2 * num_bytes, kernels=2) if gradients.body else Work()
    if gradients.body or gradients.before:
        backward += Work(collectives=_gathered_collectives(shape))
    sources = [plan.module(src) for src, dst in plan.edges if dst == module.name]
    if shape.settings.scattered_embedding and not sources:
        collectives = _hidden_collectives(shape)
    else:
        seq_length = plan.batch_sizes.seq_length
        placed = sum(tokens_handed_on(source, seq_length) for source in sources if source.model is not None)
        text = shape.tokens.sequences * max(0, shape.tokens.length - placed)  # cp ranks share the sequence later
        summed = Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, shape.element_bytes * text * shape.widths.hidden)
        collectives = (summed,) if shape.tp > 1 else ()
    forward = Work(num_bytes=num_bytes, kernels=2, collectives=collectives)
    return StagePart(name="embedding", count=1, forward=forward, backward=backward)


def _head(module: ModulePlan, shape: LayerShape, gradients: Gradients) -> StagePart:
    """The language model's head: the matrix product with the vocabulary, and the cross entropy."""
    assert module.model is not None  # noqa: S101
    vocab = padded_vocab_size(module.model, shape.tp) / shape.tp
    rows, settings = shape.tokens.per_rank, shape.settings
    logits = MatMul(rows, shape.widths.hidden, vocab)
    loss_bytes = rows * vocab * LOSS_BYTES[settings.fused_loss] / 2
    gather = _gathered_collectives(shape)
    forward = Work(matmuls=(logits,), num_bytes=loss_bytes, kernels=4, collectives=gather + _loss_collectives(shape))
    if not (gradients.before or gradients.body):
        return StagePart(name="head", count=1, forward=forward, backward=Work())
    matmuls: tuple[MatMul, ...] = (logits.input_gradient,)
    num_bytes = loss_bytes
    if gradients.body:
        matmuls += (logits.weight_gradient,)
        num_bytes += 2 * settings.gradient_bytes * vocab * shape.widths.hidden
    again = gather if gradients.body else ()  # the gradient of the weights needs the whole input again
    collectives = again + _hidden_collectives(shape)
    backward = Work(matmuls=matmuls, num_bytes=num_bytes, kernels=4, collectives=collectives)
    return StagePart(name="head", count=1, forward=forward, backward=backward)


def _loss_collectives(shape: LayerShape) -> tuple[Collective, ...]:
    """The sums of the cross entropy over a divided vocabulary, of fp32 values per token.

    They are the largest logit, the label's logit and the sum of exponentials; the fused kernel reduces the last two
    together.
    """
    if shape.tp == 1:
        return ()
    each = 4 * shape.tokens.per_rank
    if shape.settings.fused_loss:
        return tuple(Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, size) for size in (each, 2 * each))
    return (Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, each, 3),)


def _encoder_input(module: ModulePlan, shape: LayerShape, gradients: Gradients) -> StagePart:
    """An encoder's patches or convolutions as matrix products over windows, which every tp rank computes whole."""
    model, w, tokens = module.model, shape.widths, shape.tokens
    assert model is not None  # noqa: S101
    rows = tokens.sequences * tokens.length
    if model.family == "vit":
        matmuls: tuple[MatMul, ...] = (MatMul(rows, 3 * (model.patch_size or 1) ** 2, w.hidden),)
    else:  # two convolutions of width 3; the second has stride 2, so that the first sees twice as many frames
        matmuls = (MatMul(2 * rows, 3 * (model.num_mel_bins or 0), w.hidden), MatMul(rows, 3 * w.hidden, w.hidden))
    num_bytes = 8.0 * rows * w.hidden
    return _linear("input", matmuls, trains=gradients.body, before=gradients.before, num_bytes=num_bytes)


def _projector(plan: Plan, stage: StageFacts, shape: LayerShape) -> StagePart:
    """The projection into the language model's width, of the tokens that the language model sees."""
    module, gradients, tokens = stage.module, stage.gradients, stage.tokens
    model, tp, width = module.model, shape.tp, stage.language_width
    assert model is not None  # noqa: S101
    rows = plan.batch.samples_per_lane[module.name] * tokens.handed_on / tokens.cp
    hidden, inner = widths(model).hidden, model.projector_hidden_size
    if inner is None:
        matmuls: tuple[MatMul, ...] = (MatMul(rows, hidden, width / tp),)
    else:
        matmuls = (MatMul(rows, hidden, inner / tp), MatMul(rows, inner / tp, width))
    before = gradients.before or gradients.body
    part = _linear("projector", matmuls, trains=gradients.projector, before=before, num_bytes=8 * rows * width / tp)
    if tp == 1:
        return part
    op = CollectiveOp.ALL_GATHER if inner is None else CollectiveOp.ALL_REDUCE
    each = shape.element_bytes
    forward = part.forward + Work(collectives=(Collective(GroupKind.TP, op, each * rows * width),))
    backward = part.backward
    if backward.matmuls:  # megatron-core sums the gradient of the input even if nothing before it trains
        backward += Work(collectives=(Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, each * rows * hidden),))
    return StagePart(name=part.name, count=part.count, forward=forward, backward=backward)
