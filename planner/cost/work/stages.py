"""From stages to work: which parts a stage has, and what the forward and backward passes of each must do.

A part that neither trains nor is asked for the gradient of its input has no backward pass; facts.py has the rule.
"""

from __future__ import annotations

import attrs

from ...layout.bridges import tokens_handed_on
from ...layout.ir import GroupKind, ModulePlan
from ...plan import Plan
from ...spec.presets import padded_vocab_size
from . import layers
from .facts import Gradients, StageFacts
from .layers import LayerShape
from .ops import Collective, CollectiveOp, MatMul, StagePart, StageWork, Work
from .parameters import widths

LOSS_BYTES = {True: 16, False: 56}  # per logit, forward and backward: one fused kernel, or passes in fp32


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
    """The transformer layers of a stage, with what recomputation adds to their backward pass."""
    forward = layers.forward(shape)
    flows = gradients.before or gradients.body
    backward = layers.backward(shape, trains=gradients.body) if flows else Work()
    launches = 2 if flows else 1
    if flows and recompute == "full":
        backward, launches = backward + forward, 3
    elif flows and recompute == "selective":
        backward += layers.core_forward(shape)
    return StagePart(name="layers", count=count, forward=forward, backward=backward, launches=launches)


def _linear(name: str, matmuls: tuple[MatMul, ...], *, body: bool, before: bool, num_bytes: float) -> StagePart:
    """A part of plain products, whose other kernels move `num_bytes` either way."""
    backward: tuple[MatMul, ...] = ()
    if body:
        backward += tuple(product.weight_gradient for product in matmuls)
    if before or body:  # also within the part: its first product's is left out only where nothing trains at all
        backward += tuple(product.input_gradient for product in (matmuls if before else matmuls[1:]))
    forward = Work(matmuls=matmuls, num_bytes=num_bytes, kernels=2)
    gradient = Work(matmuls=backward, num_bytes=num_bytes, kernels=2) if backward else Work()
    return StagePart(name=name, count=1, forward=forward, backward=gradient)


def _hidden_collectives(shape: LayerShape) -> tuple[Collective, ...]:
    """The sum of the embedding's or head's shares over tp, scattered under sequence parallelism."""
    if shape.tp == 1:
        return ()
    how = CollectiveOp.REDUCE_SCATTER if shape.is_sequence_parallel else CollectiveOp.ALL_REDUCE
    return (Collective(GroupKind.TP, how, _hidden_bytes(shape)),)


def _gathered_collectives(shape: LayerShape) -> tuple[Collective, ...]:
    """Hidden values made whole again, where sequence parallelism has scattered them."""
    if not shape.is_sequence_parallel:
        return ()
    return (Collective(GroupKind.TP, CollectiveOp.ALL_GATHER, _hidden_bytes(shape)),)


def _hidden_bytes(shape: LayerShape) -> float:
    return shape.element_bytes * shape.tokens.per_rank * shape.w.hidden


def _embedding(plan: Plan, module: ModulePlan, shape: LayerShape, gradients: Gradients) -> StagePart:
    """Rows are copied, and backward added up: bytes, no products.

    MimoModel looks up only the tokens of text, and scatters the sequence itself once all are in their places: a sum
    over tp under sequence parallelism too. Either way the gradient is gathered.
    """
    num_bytes = 4 * shape.tokens.per_rank * shape.w.hidden
    backward = Work(num_bytes=2 * num_bytes, kernels=2) if gradients.body else Work()
    if gradients.body or gradients.before:
        backward += Work(collectives=_gathered_collectives(shape))
    sources = [plan.module(src) for src, dst in plan.edges if dst == module.name]
    if shape.settings.scattered_embedding and not sources:
        collectives = _hidden_collectives(shape)
    else:
        seq_length = plan.batch_sizes.seq_length
        placed = sum(tokens_handed_on(source, seq_length) for source in sources if source.model is not None)
        text = shape.tokens.sequences * max(0, shape.tokens.length - placed)  # not yet over cp
        summed = Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, shape.element_bytes * text * shape.w.hidden)
        collectives = (summed,) if shape.tp > 1 else ()
    forward = Work(num_bytes=num_bytes, kernels=2, collectives=collectives)
    return StagePart(name="embedding", count=1, forward=forward, backward=backward)


def _head(module: ModulePlan, shape: LayerShape, gradients: Gradients) -> StagePart:
    """The product with the vocabulary and the cross entropy."""
    assert module.model is not None  # noqa: S101
    vocab = padded_vocab_size(module.model, shape.tp) / shape.tp
    rows, settings = shape.tokens.per_rank, shape.settings
    product = MatMul(rows, shape.w.hidden, vocab)
    loss = rows * vocab * LOSS_BYTES[settings.fused_loss] / 2
    gather = _gathered_collectives(shape)
    forward = Work(matmuls=(product,), num_bytes=loss, kernels=4, collectives=gather + _loss_collectives(shape))
    if not (gradients.before or gradients.body):
        return StagePart(name="head", count=1, forward=forward, backward=Work())
    matmuls: tuple[MatMul, ...] = (product.input_gradient,)
    num_bytes = loss
    if gradients.body:
        matmuls += (product.weight_gradient,)
        num_bytes += 2 * settings.gradient_bytes * vocab * shape.w.hidden
    again = gather if gradients.body else ()  # for the gradient of the weights
    collectives = again + _hidden_collectives(shape)
    backward = Work(matmuls=matmuls, num_bytes=num_bytes, kernels=4, collectives=collectives)
    return StagePart(name="head", count=1, forward=forward, backward=backward)


def _loss_collectives(shape: LayerShape) -> tuple[Collective, ...]:
    """The cross entropy over a divided vocabulary, per token in fp32: the largest logit, then the label's logit and
    the sum of exponentials, which the fused kernel reduces together."""
    if shape.tp == 1:
        return ()
    each = 4 * shape.tokens.per_rank
    if shape.settings.fused_loss:
        return tuple(Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, size) for size in (each, 2 * each))
    return (Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, each, 3),)


def _encoder_input(module: ModulePlan, shape: LayerShape, gradients: Gradients) -> StagePart:
    """Patches or convolutions as products over their windows. Every tp rank computes them whole."""
    model, w, tokens = module.model, shape.w, shape.tokens
    assert model is not None  # noqa: S101
    rows = tokens.sequences * tokens.length
    if model.family == "vit":
        matmuls: tuple[MatMul, ...] = (MatMul(rows, 3 * (model.patch_size or 1) ** 2, w.hidden),)
    else:  # two convolutions of width 3; the first sees twice as many frames
        matmuls = (MatMul(2 * rows, 3 * (model.num_mel_bins or 0), w.hidden), MatMul(rows, 3 * w.hidden, w.hidden))
    num_bytes = 8.0 * rows * w.hidden
    return _linear("input", matmuls, body=gradients.body, before=gradients.before, num_bytes=num_bytes)


def _projector(plan: Plan, stage: StageFacts, shape: LayerShape) -> StagePart:
    """The projection into language's width, over the tokens that language sees."""
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
    part = _linear("projector", matmuls, body=gradients.projector, before=before, num_bytes=8 * rows * width / tp)
    if tp == 1:
        return part
    how = CollectiveOp.ALL_GATHER if inner is None else CollectiveOp.ALL_REDUCE
    unit = shape.element_bytes
    forward = part.forward + Work(collectives=(Collective(GroupKind.TP, how, unit * rows * width),))
    backward = part.backward
    if backward.matmuls:  # megatron-core sums the gradient of the input also where nothing before it trains
        backward += Work(collectives=(Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, unit * rows * hidden),))
    return attrs.evolve(part, forward=forward, backward=backward)
