"""Published sets of measured runs: what each leaves unsaid, and the plan of a row.

A set is known by its header. What its rows have in common (GPU, vocabulary, recomputation, software) stands here,
with its source; nothing depends on a row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs

from ...base import codes
from ...base.frozen import frozen
from ...passes.compile import compile_spec
from ...plan import Plan
from ...spec.sections import Batch, Cluster, Model, Module, Parallel, Training
from ...spec.spec import Spec
from ..work.settings import Settings
from .run_set import CellError, Row, RunSet, SecondMethod, integer, measured

# Megatron-LM of 2021 in fp16: learned positions, scores in memory, gradients in fp16, the cross entropy in fp32
# passes, and by default --scatter-gather-tensors-in-pipeline (Narayanan et al. 2021, 4.1).
_MEGATRON_2021 = Settings(
    flash_attention=False,
    rotary=False,
    scattered_embedding=True,
    dropout=True,
    gradient_bytes=2,
    dummy_gradient=False,
    scattered_hops=True,
)
# Its runs over many nodes, and those of Korthikanti et al. 2022: the same with gradients in fp32.
_MEGATRON_FP32_GRADIENTS = attrs.evolve(_MEGATRON_2021, gradient_bytes=4)

# Runs with fused cross entropy say so in their names (cef).
_FUSED_LOSS = Settings(fused_loss=True, scattered_embedding=True)


@frozen(kw_only=True)
class Layout:
    """What any row says, in one spelling."""

    num_layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int
    vocab: int
    seq_length: int
    tp: int
    cp: int
    pp: int
    dp: int
    micro_batch: int
    num_microbatches: int


@frozen(kw_only=True)
class Common:
    """What all rows of a set have in common.

    Attributes:
        layout: reads a row.
        gpu: hardware file.
        layers: the column of the number of layers.
        recompute, sequence_parallel, distributed_optimizer: as in the spec.
        is_llama: RMSNorm, SwiGLU, no biases, untied; else GPT-3's layers.
    """

    layout: Callable[[Row], Layout]
    gpu: str
    layers: str
    recompute: str
    sequence_parallel: bool
    distributed_optimizer: bool
    is_llama: bool


def _whole(row: Row, column: str, divisor: int, what: str) -> int:
    """A cell over a product of others."""
    number = integer(row, column)
    if number % divisor:
        rule = f"{what}, a whole number; got {number} / {divisor}"
        raise CellError(column, rule, "correct one of these cells", codes.CONFLICT)
    return number // divisor


def _b200(row: Row) -> Layout:
    return Layout(
        num_layers=integer(row, "L"),
        hidden=integer(row, "h"),
        ffn=integer(row, "ffn"),
        heads=integer(row, "heads"),
        groups=integer(row, "kv"),
        vocab=integer(row, "V"),
        seq_length=integer(row, "seq"),
        tp=integer(row, "TP"),
        cp=integer(row, "CP"),
        pp=integer(row, "PP"),
        dp=integer(row, "DP"),
        micro_batch=1,
        num_microbatches=integer(row, "mbc"),
    )


def _vtrain(row: Row) -> Layout:
    hidden, heads = integer(row, "hidden size"), integer(row, "attention heads")
    dp, micro = integer(row, "data parallelism"), integer(row, "micro batch")
    tp, pp = integer(row, "tensor parallelism"), integer(row, "pipeline parallelism")
    if integer(row, "# GPUs") != tp * dp * pp:
        rule = f"# GPUs = tensor * data * pipeline parallelism = {tp} * {dp} * {pp}, got {row['# GPUs'].strip()}"
        raise CellError("# GPUs", rule, "correct one of the four", codes.CONFLICT)
    return Layout(
        num_layers=integer(row, "# layers"),
        hidden=hidden,
        ffn=4 * hidden,
        heads=heads,
        groups=heads,
        vocab=50304,
        seq_length=integer(row, "sequence length"),
        tp=tp,
        cp=1,
        pp=pp,
        dp=dp,
        micro_batch=micro,
        num_microbatches=_whole(row, "global batch", micro * dp, "microbatches = global batch / (micro batch * dp)"),
    )


def _korthikanti(row: Row) -> Layout:
    hidden, heads, micro = integer(row, "h"), integer(row, "heads"), integer(row, "MBS")
    tp, pp = integer(row, "TP"), integer(row, "PP")
    dp = _whole(row, "GPUs", tp * pp, "dp = GPUs / (TP * PP)")
    return Layout(
        num_layers=integer(row, "L"),
        hidden=hidden,
        ffn=4 * hidden,
        heads=heads,
        groups=heads,
        vocab=51200,
        seq_length=2048,
        tp=tp,
        cp=1,
        pp=pp,
        dp=dp,
        micro_batch=micro,
        num_microbatches=_whole(row, "GBS", micro * dp, "microbatches = GBS / (MBS * dp)"),
    )


def _spec(row: Row, common: Common) -> Spec:
    """A language module alone, on nodes of eight GPUs."""
    size = common.layout(row)
    if size.num_layers < size.pp:
        rule = f"each of {size.pp} pipeline stages has a layer or more, got {size.num_layers} layers"
        raise CellError(common.layers, rule, "write fewer stages, or more layers", codes.CONFLICT)
    stages = None
    if size.num_layers % size.pp:  # as even as can be, the longer stages first
        short, longer = divmod(size.num_layers, size.pp)
        stages = tuple(short + (stage < longer) for stage in range(size.pp))
    micro = size.micro_batch * size.dp
    parallel = Parallel(
        tp=size.tp,
        cp=size.cp,
        pp=size.pp,
        dp=size.dp,
        sequence_parallel=common.sequence_parallel and size.tp > 1,
    )
    language = Module(parallel=parallel, model=_model(common, size), recompute=common.recompute, stages=stages)
    return Spec(
        cluster=Cluster(gpus_per_node=8, gpu=common.gpu),
        batch=Batch(global_size=micro * size.num_microbatches, micro_size=micro, seq_length=size.seq_length),
        modules={"language": language},
        training=Training(distributed_optimizer=common.distributed_optimizer),
    )


def _model(common: Common, size: Layout) -> Model:
    return Model(
        family="gpt",
        num_layers=size.num_layers,
        hidden_size=size.hidden,
        ffn_hidden_size=size.ffn,
        num_attention_heads=size.heads,
        num_query_groups=size.groups,
        normalization="RMSNorm" if common.is_llama else "LayerNorm",
        activation="silu" if common.is_llama else "gelu",
        gated_linear_unit=common.is_llama,
        add_bias_linear=not common.is_llama,
        untie_embeddings_and_output_weights=common.is_llama,
        vocab_size=size.vocab,
        max_positions=size.seq_length,
    )


def _plan(row: Row, folder: str, *, common: Common) -> Plan:  # noqa: ARG001  rows name no files
    return compile_spec(_spec(row, common))


def _time(row: Row, folder: str, *, column: str, milliseconds: float = 1.0) -> float:  # noqa: ARG001
    return milliseconds * measured(row, column)


def _same(row: Row, *, settings: Settings) -> Settings:  # noqa: ARG001
    return settings


def _sliced(row: Row, *, settings: Settings, column: str) -> Settings:
    """With the row's slices of an interleaved schedule."""
    return attrs.evolve(settings, stages_per_rank=integer(row, column))


_LLAMA = Common(
    layout=_b200,
    gpu="b200",
    layers="L",
    recompute="none",
    sequence_parallel=True,
    distributed_optimizer=True,
    is_llama=True,
)
_GPT_FULL = Common(
    layout=_vtrain,
    gpu="a100",
    layers="# layers",
    recompute="full",
    sequence_parallel=False,
    distributed_optimizer=False,
    is_llama=False,
)
_GPT_2022_FULL = attrs.evolve(_GPT_FULL, layout=_korthikanti, layers="L")
_GPT_2022 = attrs.evolve(_GPT_2022_FULL, recompute="selective", sequence_parallel=True)
_VTRAIN_COLUMNS = (
    "# GPUs", "global batch", "micro batch", "hidden size", "attention heads", "# layers", "sequence length",
    "tensor parallelism", "data parallelism", "pipeline parallelism",
)  # fmt: skip
_VTRAIN = RunSet(
    name="vTrain, one node of A100",
    columns=_VTRAIN_COLUMNS,
    plan_of=partial(_plan, common=_GPT_FULL),
    settings_of=partial(_same, settings=_MEGATRON_2021),
    gpu="a100",
    measured_ms=partial(_time, column="iteration time (ms)"),
)
PUBLISHED = (
    RunSet(
        name="SimuMax, Llama on B200",
        columns=("h", "ffn", "heads", "kv", "V", "L", "TP", "PP", "CP", "DP", "mbc", "seq"),
        plan_of=partial(_plan, common=_LLAMA),
        settings_of=partial(_same, settings=_FUSED_LOSS),
        gpu="b200",
        measured_ms=partial(_time, column="ms"),
        gibibytes="alloc_GiB",
    ),
    attrs.evolve(
        _VTRAIN,
        name="vTrain, many nodes of A100",
        columns=("Parameters (billion)", *_VTRAIN_COLUMNS),
        settings_of=partial(_same, settings=_MEGATRON_FP32_GRADIENTS),
    ),
    _VTRAIN,
    RunSet(
        name="Korthikanti 2022, A100",
        columns=("h", "L", "heads", "TP", "PP", "VP", "GPUs", "GBS", "MBS"),
        plan_of=partial(_plan, common=_GPT_2022),
        settings_of=partial(_sliced, settings=_MEGATRON_FP32_GRADIENTS, column="VP"),
        gpu="a100",
        measured_ms=partial(_time, column="sp_selective_s", milliseconds=1000.0),
        second=SecondMethod(
            measured="full_s",
            predicted="predicted_full_ms",
            plan_of=partial(_plan, common=_GPT_2022_FULL),
        ),
    ),
)
