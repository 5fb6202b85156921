"""Bytes on one rank: states, activations of the microbatches in flight, logits, buffers, communicators.

Activations per token and layer, in bf16 (Korthikanti et al. 2022, 4.1, with flash attention and grouped queries):

    inputs of two norms and their outputs  8h          whole, or over tp under sequence parallelism
    two dropout masks                      2h          likewise, where there is dropout
    queries keys values, then rotated      2(q + 2k) + 2(q + k)   over tp; only causal models rotate. With fewer query
                                           groups than tp the first is whole, as gathered
    attention's output                     2q          over tp
    statistics of flash attention          4 heads     over tp; or the scores, 5 heads s
    the MLP's two inner values             2(f1 + f)   over tp; f1 = 2f where it is gated
    experts: those per visit, and          2h          the token as it came

Selective recomputation drops the line of the statistics (or scores), full recomputation keeps the layer's input alone
and one layer alive. Frozen weights need no input kept for their gradients: outputs of norms (but a router's), the
MLP's second value and tokens as they came, and attention's output where no flash attention asks for it itself
(megatron-core 0.19, tensor_parallel/layers.py, linear_with_frozen_weight; Transformer Engine likewise). How many
microbatches a rank holds is the schedule's to say (schedule.py).
"""

from __future__ import annotations

from math import ceil

import attrs

from ...base.frozen import frozen
from ...layout.ir import ModulePlan
from ...plan import Plan
from ...spec.presets import padded_vocab_size
from ...spec.sections import Model
from ..simulation.schedule import Stage, in_flight, position_of, warmup_at
from ..work.facts import Gradients, StageFacts
from ..work.layers import LayerShape, expert_tokens
from ..work.ops import GIB
from ..work.optimizer_step import state_shards
from ..work.parameters import Parameters, parameter_bytes
from ..work.settings import Settings
from ..work.tokens import edge_bytes

WORKSPACE_BYTES = 32 * 2**20  # of one cuBLAS workspace on Hopper and later; on an A100 it is smaller
COMMUNICATOR_BYTES = 8 * 2**20  # NCCL's channel buffers of one communicator on one rank, where it has been used


@frozen(kw_only=True)
class Memory:
    """Bytes on one rank, of one module's stage or of all that it holds.

    Attributes:
        states: weights, gradients, optimizer.
        activations: of all microbatches in flight.
        logits: of the last stage of a language model, of all microbatches in flight.
        buffers: Transformer Engine's placeholder for weight gradients, what two stages of a module hand one another,
            and what has come over bridges: activations of all microbatches in flight, and a gradient.
        workspace: cuBLAS's, of a rank and of no module on it.
    """

    states: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    buffers: float = 0.0
    workspace: float = 0.0

    @property
    def total(self) -> float:
        return self.states + self.activations + self.logits + self.buffers + self.workspace

    def __add__(self, other: Memory) -> Memory:
        mine, theirs = attrs.astuple(self), attrs.astuple(other)
        return Memory(**dict(zip(attrs.fields_dict(Memory), map(sum, zip(mine, theirs, strict=True)), strict=True)))


def state_bytes(plan: Plan, module: ModulePlan, parameters: Parameters, settings: Settings) -> float:
    """Weights, gradients and optimizer state: 18 bytes in bf16 with Adam, 6 + 12 / shards when shared out.

    Master weights are kept where the model's are not fp32; Adam keeps two more values, SGD without momentum none.
    """
    weight = parameter_bytes(plan)
    master = 0 if plan.training.dtype == "fp32" else 4
    state = master + (8 if plan.training.optimizer == "adam" else 0)
    dense, experts = state_shards(plan, module)
    trained = weight + settings.gradient_bytes
    return (
        weight * parameters.frozen
        + parameters.dense * (trained + state / dense)
        + parameters.experts * (trained + state / experts)
    )


def token_activations(shape: LayerShape, recompute: str, *, trains: bool = True) -> float:
    """Bytes that one layer keeps per token of a rank, until the backward pass. `trains`: its weights have gradients."""
    w, settings = shape.w, shape.settings
    unit = shape.element_bytes / 2  # the formulas below are in bf16
    if recompute == "full":
        return unit * 2 * w.hidden / shape.split
    norms = 8 if trains else 6 if w.experts else 4  # a router keeps its input, frozen or not
    kept = unit * norms * w.hidden / shape.split
    if settings.dropout:
        kept += 2 * w.hidden / shape.split
    kept += unit * 2 * (w.queries + 2 * w.keys) / (1 if shape.gathers_queries else shape.tp)
    if shape.is_rotated:
        kept += unit * 2 * (w.queries / shape.tp + shape.keys)
    if trains or (settings.flash_attention and recompute == "none"):
        kept += unit * 2 * w.queries / shape.tp
    if recompute == "none":
        kept += unit * core_activations(shape)
    visits = expert_tokens(shape) / shape.tokens.per_rank if w.experts else 1
    return kept + unit * visits * _visit_activations(shape, trains=trains)


def _visit_activations(shape: LayerShape, *, trains: bool) -> float:
    """Bytes, at 2 a value, that one token leaves in an MLP, or in one expert."""
    w, divided = shape.w, 2 * shape.w.fc1
    if trains:
        divided += 2 * w.ffn
    if not shape.settings.fused_activation:  # gated: both factors; then, where experts weigh visits, what is weighed
        divided += (4 * w.ffn if w.is_gated else 0) + (2 * w.ffn if w.experts else 0)
    came = 2 * w.hidden if w.experts and trains else 0
    return divided / (shape.expt_tp if w.experts else shape.tp) + came


def core_activations(shape: LayerShape) -> float:
    """Bytes per token of the attention core: statistics per head, or what is kept of each score."""
    if shape.settings.flash_attention:
        return 4 * shape.w.heads / shape.tp
    return shape.settings.score_bytes * shape.w.heads * shape.tokens.length / shape.tp


def stage_memory(plan: Plan, stage: StageFacts, *, position: int | None = None) -> Memory:
    """The peak of one rank of a stage.

    Args:
        plan: the plan.
        stage: the facts of the stage.
        position: the rank's position in the pipeline, if it holds other stages too; else that of the stage.
    """
    module, shape, settings = stage.module, stage.shape, stage.settings
    if module.model is None or shape is None:
        return Memory()
    if position is None:
        position = position_of(plan, [Stage(module.name, stage.index)])
    num_held = in_flight(warmup_at(plan, position), plan.batch.num_microbatches)
    logits = 0.0
    if module.model.family == "gpt" and stage.is_last:
        kept, copied = _logit_bytes(shape)
        vocabulary = padded_vocab_size(module.model, shape.tp)
        logits = shape.tokens.per_rank * vocabulary / shape.tp * (num_held * kept + copied)
    return Memory(
        states=state_bytes(plan, module, stage.parameters, settings),
        activations=_activations(plan, stage, shape, num_held * _interleaved(module, settings)),
        logits=logits,
        buffers=_placeholder(shape, stage.gradients)
        + _between_stages(module, shape)
        + _received(plan, stage, num_held),
    )


def _logit_bytes(shape: LayerShape) -> tuple[int, int]:
    """(kept until the backward pass, once more at its beginning or end) of each logit.

    Kept are the logits where the loss is fused, else their softmax in fp32, which takes the place of logits in fp32
    and stands beside those in bf16 (megatron-core 0.19, tensor_parallel/cross_entropy.py).
    """
    if shape.settings.fused_loss:
        return shape.element_bytes, shape.element_bytes
    return 4, 0 if shape.element_bytes == 4 else shape.element_bytes


def _activations(plan: Plan, stage: StageFacts, shape: LayerShape, held: float) -> float:
    """Bytes of the activations of `held` microbatches."""
    module, gradients = stage.module, stage.gradients
    assert module.model is not None  # noqa: S101
    count, rows = stage.num_layers, shape.tokens.per_rank
    handed_on = 0.0
    if module.model.family != "gpt" and stage.is_last:
        tokens = plan.batch.samples_per_lane[module.name] * shape.tokens.handed_on / shape.cp
        handed_on = (
            shape.element_bytes * tokens * _projector_values(module.model, shape, gradients, stage.language_width)
        )
    one_layer = token_activations(shape, "none", trains=gradients.body) * rows
    if not (gradients.before or gradients.body):  # nothing is kept: one layer is alive at a time
        return one_layer + held * handed_on
    kept = token_activations(shape, module.recompute, trains=gradients.body) * rows
    # What is computed again is alive for one layer at a time.
    return held * (count * kept + handed_on) + (one_layer - kept if count else 0.0)


def _projector_values(model: Model, shape: LayerShape, gradients: Gradients, width: int) -> float:
    """Values per token kept of a projector: its output, which the schedule holds; what its weights' gradients need,
    its input and the inner value; and that before its activation, where any gradient passes."""
    inner = (model.projector_hidden_size or 0) / shape.tp
    passes = gradients.projector or gradients.body or gradients.before
    return width + (shape.w.hidden + inner if gradients.projector else 0) + (inner if passes else 0)


def _interleaved(module: ModulePlan, settings: Settings) -> float:
    """How much more an interleaved schedule holds: 1 + (p - 1) / (p v) (Korthikanti et al. 2022, appendix C)."""
    pp, slices = module.num_stages, settings.stages_per_rank
    return 1 + (pp - 1) / (pp * slices) if slices > 1 else 1.0


def _placeholder(shape: LayerShape, gradients: Gradients) -> float:
    """Transformer Engine's stand-in for the gradients of weights that are added up elsewhere: as large as the weights
    of a layer, once per shape, so that all experts share one (pytorch/module/base.py, get_dummy_wgrad)."""
    if not (shape.settings.dummy_gradient and gradients.body):
        return 0.0
    w = shape.w
    attention = w.hidden * (2 * w.queries + 2 * w.keys) / shape.tp
    return shape.element_bytes * (attention + w.hidden * (w.fc1 + w.ffn) / (shape.expt_tp if w.experts else shape.tp))


def _between_stages(module: ModulePlan, shape: LayerShape) -> float:
    """Two hidden tensors on the way between stages of a module."""
    return (
        2 * shape.element_bytes * shape.tokens.per_rank * shape.w.hidden / shape.split if module.num_stages > 1 else 0.0
    )


def _received(plan: Plan, stage: StageFacts, num_held: int) -> float:
    """What bridges bring, whole on each rank: to a first stage the rows of each source, kept for their gradient as
    long as the microbatch is; to a last stage a gradient for each destination."""
    name = stage.module.name
    samples = plan.batch.samples_per_lane[name]
    total = 0.0
    for src, dst in plan.pipeline.hops:
        row = samples * edge_bytes(plan, plan.module(src), plan.module(dst))
        if dst == name and stage.is_first:
            total += num_held * row
        elif src == name and stage.is_last:
            total += row
    return total


def communicator_bytes(plan: Plan, rank: int) -> int:
    """What the communicators that a rank opens cost it: one per distinct set of two or more ranks and lane."""
    view = plan.view(rank)
    opened = {
        number for number, group in zip(plan.communicators(view), view.groups, strict=True) if len(group.ranks) > 1
    }
    return len(opened) * COMMUNICATOR_BYTES


def excess(num_bytes: float) -> str:
    """GiB that are too much: rounded up, so that a little is not 0.0, and to save as much is enough."""
    return f"{ceil(10 * num_bytes / GIB) / 10:.1f}"
