"""Bytes on one rank: states, activations of the microbatches in flight, logits, buffers, communicators.

Activations per token and layer, in bf16 (Korthikanti et al. 2022, section 4.1, with flash attention and grouped
queries). h, q, k and f are the widths of hidden values, queries, keys and the MLP's inner value, s the sequence length:

    two norms, inputs and outputs     8h                     over tp under sequence parallelism, else whole
    two dropout masks                 2h                     likewise; only with dropout
    queries, keys and values          2(q + 2k)              over tp; whole if there are fewer query groups than tp
    queries and keys, rotated         2(q + k)               over tp; causal models only
    attention's output                2q                     over tp
    statistics of flash attention     4 per head             over tp; without it the scores, 5 s per head
    the MLP's two inner values        2(f1 + f)              over tp; f1 = f, or 2f if it is gated
    an expert's visit                 2(f1 + f) + 2h         as the MLP, over expt_tp, and the token as it came

Selective recomputation drops the line of the statistics or scores. Full recomputation keeps a layer's input alone, and
one layer is alive at a time. Frozen weights have no gradients that need an input. Then the outputs of norms are not
kept (except that of a router's norm), nor the MLP's second inner value, nor the tokens as they came, nor attention's
output unless flash attention itself needs it (megatron-core 0.19, tensor_parallel/layers.py, linear_with_frozen_weight;
Transformer Engine does the same). How many microbatches a rank holds follows from the schedule (schedule.py).
"""

from __future__ import annotations

from math import ceil

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

WORKSPACE_BYTES = 32 * 2**20  # one cuBLAS workspace on Hopper and later; on an A100 it is smaller
COMMUNICATOR_BYTES = 8 * 2**20  # NCCL's channel buffers of one communicator on one rank, once it has been used


@frozen(kw_only=True)
class Memory:
    """Bytes on one rank, for one stage or for all stages that it holds.

    Attributes:
        states: weights, gradients and optimizer state.
        activations: activations of all microbatches in flight.
        logits: logits of all microbatches in flight; on the last stage of a language model only.
        buffers: Transformer Engine's placeholder for weight gradients, what two stages of a module hand to each other,
            and what has come over bridges: activations of all microbatches in flight, and one gradient.
        workspace: cuBLAS's workspaces, which belong to the rank and not to one of its modules.
    """

    states: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    buffers: float = 0.0
    workspace: float = 0.0

    @property
    def total(self) -> float:
        """All bytes."""
        return self.states + self.activations + self.logits + self.buffers + self.workspace

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            states=self.states + other.states,
            activations=self.activations + other.activations,
            logits=self.logits + other.logits,
            buffers=self.buffers + other.buffers,
            workspace=self.workspace + other.workspace,
        )


def state_bytes(plan: Plan, module: ModulePlan, parameters: Parameters, settings: Settings) -> float:
    """Bytes of weights, gradients and optimizer state on one rank.

    With bf16 and Adam a trained parameter has 18 bytes, or 6 + 12 / shards if the state is shared out. There are master
    weights unless the model itself is in fp32. Adam keeps two more values per parameter, SGD without momentum none.
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
    """Bytes that one layer keeps per token of a rank, until the backward pass.

    Args:
        shape: the shape of the layer.
        recompute: `none`, `selective` or `full`, as in the spec.
        trains: whether the layer's weights have gradients.
    """
    w, settings = shape.widths, shape.settings
    scale = shape.element_bytes / 2  # the formulas below are in bf16
    if recompute == "full":
        return scale * 2 * w.hidden / shape.split
    norms = 8 if trains else 6 if w.experts else 4  # a router keeps its input, frozen or not
    kept = scale * norms * w.hidden / shape.split
    if settings.dropout:
        kept += 2 * w.hidden / shape.split
    kept += scale * 2 * (w.queries + 2 * w.keys) / (1 if shape.gathers_queries else shape.tp)
    if shape.is_rotated:
        kept += scale * 2 * (w.queries / shape.tp + shape.keys)
    if trains or (settings.flash_attention and recompute == "none"):
        kept += scale * 2 * w.queries / shape.tp
    if recompute == "none":
        kept += scale * core_activations(shape)
    visits = expert_tokens(shape) / shape.tokens.per_rank if w.experts else 1
    return kept + scale * visits * _visit_activations(shape, trains=trains)


def _visit_activations(shape: LayerShape, *, trains: bool) -> float:
    """Bytes in bf16 that one token leaves in an MLP, or in one expert."""
    w, divided = shape.widths, 2 * shape.widths.fc1
    if trains:
        divided += 2 * w.ffn
    if not shape.settings.fused_activation:
        divided += 4 * w.ffn if w.is_gated else 0  # both factors of the gate
        divided += 2 * w.ffn if w.experts else 0  # the value that the router's weight multiplies
    token = 2 * w.hidden if w.experts and trains else 0  # as it came to the expert
    return divided / (shape.expt_tp if w.experts else shape.tp) + token


def core_activations(shape: LayerShape) -> float:
    """Bytes per token, in bf16, that the attention core keeps: statistics per head, or what it keeps of each score."""
    if shape.settings.flash_attention:
        return 4 * shape.widths.heads / shape.tp
    return shape.settings.score_bytes * shape.widths.heads * shape.tokens.length / shape.tp


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
    """Bytes of each logit: (kept until the backward pass, needed once more at its beginning or end).

    With a fused loss the logits themselves are kept. Otherwise their softmax is kept in fp32; it overwrites logits in
    fp32, and stands beside logits in bf16 (megatron-core 0.19, tensor_parallel/cross_entropy.py).
    """
    if shape.settings.fused_loss:
        return shape.element_bytes, shape.element_bytes
    return 4, 0 if shape.element_bytes == 4 else shape.element_bytes


def _activations(plan: Plan, stage: StageFacts, shape: LayerShape, held: float) -> float:
    """Bytes of a stage's activations for `held` microbatches, without logits."""
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
    if not (gradients.before or gradients.body):  # without a backward pass, one layer is alive at a time
        return one_layer + held * handed_on
    kept = token_activations(shape, module.recompute, trains=gradients.body) * rows
    # What is recomputed is alive for one layer at a time.
    return held * (count * kept + handed_on) + (one_layer - kept if count else 0.0)


def _projector_values(model: Model, shape: LayerShape, gradients: Gradients, width: int) -> float:
    """Values that a projector keeps per token.

    They are its output, which the schedule holds; its input and its inner value, if it trains; and the inner value
    before the activation, if any gradient passes through it.
    """
    inner = (model.projector_hidden_size or 0) / shape.tp
    passes = gradients.projector or gradients.body or gradients.before
    return width + (shape.widths.hidden + inner if gradients.projector else 0) + (inner if passes else 0)


def _interleaved(module: ModulePlan, settings: Settings) -> float:
    """The factor by which an interleaved schedule of v stages per rank holds more: 1 + (pp - 1) / (pp * v).

    Korthikanti et al. 2022, appendix C.
    """
    pp, per_rank = module.num_stages, settings.stages_per_rank
    return 1 + (pp - 1) / (pp * per_rank) if per_rank > 1 else 1.0


def _placeholder(shape: LayerShape, gradients: Gradients) -> float:
    """Bytes of Transformer Engine's placeholder for weight gradients, which are accumulated elsewhere.

    It is as large as the weights of a layer. There is one per shape, so that all experts share theirs (Transformer
    Engine, pytorch/module/base.py, get_dummy_wgrad).
    """
    if not (shape.settings.dummy_gradient and gradients.body):
        return 0.0
    w = shape.widths
    attention = w.hidden * (2 * w.queries + 2 * w.keys) / shape.tp
    return shape.element_bytes * (attention + w.hidden * (w.fc1 + w.ffn) / (shape.expt_tp if w.experts else shape.tp))


def _between_stages(module: ModulePlan, shape: LayerShape) -> float:
    """Bytes of two hidden tensors on their way between the stages of a module."""
    if module.num_stages == 1:
        return 0.0
    return 2 * shape.element_bytes * shape.tokens.per_rank * shape.widths.hidden / shape.split


def _received(plan: Plan, stage: StageFacts, num_held: int) -> float:
    """Bytes of what bridges bring, which is whole on each rank.

    A first stage receives the tensor of each source, and holds it for its gradient as long as it holds the microbatch.
    A last stage receives one gradient from each destination.
    """
    name = stage.module.name
    samples = plan.batch.samples_per_lane[name]
    total = 0.0
    for src, dst in plan.pipeline.hops:
        if dst == name and stage.is_first:
            held = num_held
        elif src == name and stage.is_last:
            held = 1
        else:
            continue
        total += held * samples * edge_bytes(plan, plan.module(src), plan.module(dst))
    return total


def communicator_bytes(plan: Plan, rank: int) -> int:
    """Bytes of the communicators that a rank opens, those of two or more ranks; groups may share a communicator."""
    view = plan.view(rank)
    opened = {
        number for number, group in zip(plan.communicators(view), view.groups, strict=True) if group.num_ranks > 1
    }
    return len(opened) * COMMUNICATOR_BYTES


def excess(num_bytes: float) -> str:
    """The GiB by which something is too large, as text.

    They are rounded up, so that it is enough to save as much, and so that a little is not 0.0.
    """
    return f"{ceil(10 * num_bytes / GIB) / 10:.1f}"
