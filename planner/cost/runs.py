"""Measured runs in CSV files -> specs: which columns say what, and what each published set leaves unsaid.

A set is known by its header. What its rows have in common (GPU, vocabulary, recomputation, software) stands here,
with its source; nothing depends on a row.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from io import StringIO

import attrs

from .. import codes
from ..errors import Fault, Mark, PlanError
from ..spec import Batch, Cluster, Model, Module, Parallel, Spec, Training
from .settings import Settings

Row = Mapping[str, str]

# Megatron-LM of 2021 in fp16: learned positions, scores in memory, gradients in fp16, the cross entropy in fp32
# passes, and by default --scatter-gather-tensors-in-pipeline (Narayanan et al. 2021, 4.1).
_MEGATRON_2021 = Settings(
    flash_attention=False,
    rotary=False,
    scattered_embedding=True,
    dropout=True,
    fused_loss=False,
    gradient_bytes=2,
    dummy_gradient=False,
    scattered_hops=True,
)
# Its runs over many nodes, and those of Korthikanti et al. 2022: the same with gradients in fp32.
_MEGATRON_FP32_GRADIENTS = attrs.evolve(_MEGATRON_2021, gradient_bytes=4)


@attrs.frozen(kw_only=True)
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


@attrs.frozen(kw_only=True)
class RunSet:
    """One published set of measured runs.

    Attributes:
        name: of the set.
        columns: its header has all of these.
        gpu: hardware file.
        milliseconds: the column of measured times, and the factor that makes them milliseconds.
        gibibytes: the column of measured memory, or nothing.
        recompute, sequence_parallel, distributed_optimizer: as in the spec, for every row.
        is_llama: RMSNorm, SwiGLU, no biases, untied; else GPT-3's layers.
        settings: of the software that ran.
        layout: reads a row.
        slices: the column with the slices of an interleaved schedule, or nothing.
    """

    name: str
    columns: tuple[str, ...]
    gpu: str
    milliseconds: tuple[str, float]
    gibibytes: str
    recompute: str
    sequence_parallel: bool
    distributed_optimizer: bool
    is_llama: bool
    settings: Settings
    layout: Callable[[Row], Layout]
    slices: str = ""


def _int(row: Row, column: str) -> int:
    value = int(row[column])
    if value < 1:
        raise ValueError(f"{column} >= 1, got {value}")
    return value


def _whole(number: int, divisor: int, what: str) -> int:
    if number % divisor:
        raise ValueError(f"{what} = {number} / {divisor} must be whole")
    return number // divisor


def _b200(row: Row) -> Layout:
    return Layout(
        num_layers=_int(row, "L"),
        hidden=_int(row, "h"),
        ffn=_int(row, "ffn"),
        heads=_int(row, "heads"),
        groups=_int(row, "kv"),
        vocab=_int(row, "V"),
        seq_length=_int(row, "seq"),
        tp=_int(row, "TP"),
        cp=_int(row, "CP"),
        pp=_int(row, "PP"),
        dp=_int(row, "DP"),
        micro_batch=1,
        num_microbatches=_int(row, "mbc"),
    )


def _vtrain(row: Row) -> Layout:
    hidden, heads = _int(row, "hidden size"), _int(row, "attention heads")
    dp, micro = _int(row, "data parallelism"), _int(row, "micro batch")
    return Layout(
        num_layers=_int(row, "# layers"),
        hidden=hidden,
        ffn=4 * hidden,
        heads=heads,
        groups=heads,
        vocab=50304,
        seq_length=_int(row, "sequence length"),
        tp=_int(row, "tensor parallelism"),
        cp=1,
        pp=_int(row, "pipeline parallelism"),
        dp=dp,
        micro_batch=micro,
        num_microbatches=_whole(_int(row, "global batch"), micro * dp, "microbatches = global / (micro * dp)"),
    )


def _korthikanti(row: Row) -> Layout:
    hidden, heads, micro = _int(row, "h"), _int(row, "heads"), _int(row, "MBS")
    tp, pp = _int(row, "TP"), _int(row, "PP")
    dp = _whole(_int(row, "GPUs"), tp * pp, "dp = GPUs / (TP * PP)")
    return Layout(
        num_layers=_int(row, "L"),
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
        num_microbatches=_whole(_int(row, "GBS"), micro * dp, "microbatches = GBS / (MBS * dp)"),
    )


_VTRAIN_COLUMNS = (
    "# GPUs", "global batch", "micro batch", "hidden size", "attention heads", "# layers", "sequence length",
    "tensor parallelism", "data parallelism", "pipeline parallelism",
)  # fmt: skip
_VTRAIN = RunSet(
    name="vTrain, one node of A100",
    columns=_VTRAIN_COLUMNS,
    gpu="a100",
    milliseconds=("iteration time (ms)", 1.0),
    gibibytes="",
    recompute="full",
    sequence_parallel=False,
    distributed_optimizer=False,
    is_llama=False,
    settings=_MEGATRON_2021,
    layout=_vtrain,
)
SETS = (
    RunSet(
        name="SimuMax, Llama on B200",
        columns=("h", "ffn", "heads", "kv", "V", "L", "TP", "PP", "CP", "DP", "mbc", "seq"),
        gpu="b200",
        milliseconds=("ms", 1.0),
        gibibytes="alloc_GiB",
        recompute="none",
        sequence_parallel=True,
        distributed_optimizer=True,
        is_llama=True,
        settings=Settings(scattered_embedding=True),
        layout=_b200,
    ),
    attrs.evolve(
        _VTRAIN,
        name="vTrain, many nodes of A100",
        columns=("Parameters (billion)", *_VTRAIN_COLUMNS),
        settings=_MEGATRON_FP32_GRADIENTS,
    ),
    _VTRAIN,
    RunSet(
        name="Korthikanti 2022, A100",
        columns=("h", "L", "heads", "TP", "PP", "VP", "GPUs", "GBS", "MBS"),
        gpu="a100",
        milliseconds=("sp_selective_s", 1000.0),
        gibibytes="",
        recompute="selective",
        sequence_parallel=True,
        distributed_optimizer=False,
        is_llama=False,
        settings=_MEGATRON_FP32_GRADIENTS,
        layout=_korthikanti,
        slices="VP",
    ),
)


@attrs.frozen(kw_only=True)
class Runs:
    """A file of runs: its set, its header, its rows as written, and the number of the line of each."""

    kind: RunSet
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    lines: tuple[int, ...]
    file: str


def read_runs(text: str, file: str) -> Runs:
    """The runs in a CSV text.

    Raises:
        PlanError: its header is that of no known set, or a row has other columns.
    """
    reader = csv.reader(StringIO(text.lstrip("\ufeff")), strict=True)
    try:
        table = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        mark = Mark(file, reader.line_num, 1)
        raise _refused(codes.BAD_SYNTAX, f"the text is CSV: {error}", "correct the line", mark) from None
    header = tuple(cell.strip() for cell in table[0][1]) if table else ()
    kind = next((one for one in SETS if set(one.columns) <= set(header)), None)
    if kind is None:
        known = "; ".join(f"{one.name}: {', '.join(one.columns)}" for one in SETS)
        shown = ", ".join(header)[:200] or "nothing"
        rule = f"the header names the columns of a known set ({known}); found {shown}"
        raise _refused(codes.MISSING_KEY, rule, "write the first line as one of these sets does", Mark(file, 1, 1))
    for line, cells in table[1:]:
        if len(cells) != len(header):
            rule = f"every row has the header's {len(header)} cells, got {len(cells)}"
            raise _refused(codes.WRONG_TYPE, rule, "correct the row", Mark(file, line, 1))
    rows = tuple(dict(zip(header, cells, strict=True)) for _, cells in table[1:])
    return Runs(kind=kind, header=header, rows=rows, lines=tuple(line for line, _ in table[1:]), file=file)


def spec_of(kind: RunSet, row: Row, *, recompute: str | None = None) -> Spec:
    """The spec of one row: a language module alone, on nodes of eight GPUs. Raises ValueError, PlanError."""
    size = kind.layout(row)
    how = recompute or kind.recompute
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
        sequence_parallel=kind.sequence_parallel and how != "full" and size.tp > 1,
    )
    language = Module(parallel=parallel, model=_model(kind, size), recompute=how, stages=stages)
    return Spec(
        cluster=Cluster(gpus_per_node=8, gpu=kind.gpu),
        batch=Batch(global_size=micro * size.num_microbatches, micro_size=micro, seq_length=size.seq_length),
        modules={"language": language},
        training=Training(distributed_optimizer=kind.distributed_optimizer),
    )


def _model(kind: RunSet, size: Layout) -> Model:
    return Model(
        family="gpt",
        num_layers=size.num_layers,
        hidden_size=size.hidden,
        ffn_hidden_size=size.ffn,
        num_attention_heads=size.heads,
        num_query_groups=size.groups,
        normalization="RMSNorm" if kind.is_llama else "LayerNorm",
        activation="silu" if kind.is_llama else "gelu",
        gated_linear_unit=kind.is_llama,
        add_bias_linear=not kind.is_llama,
        untie_embeddings_and_output_weights=kind.is_llama,
        vocab_size=size.vocab,
        max_positions=size.seq_length,
    )


def settings_of(kind: RunSet, row: Row) -> Settings:
    """The set's settings, with the row's slices of an interleaved schedule."""
    return attrs.evolve(kind.settings, stages_per_rank=_int(row, kind.slices)) if kind.slices else kind.settings


def measured_ms(kind: RunSet, row: Row) -> float:
    """The measured milliseconds of a row. Raises ValueError."""
    column, factor = kind.milliseconds
    if column not in row:
        raise ValueError(f"a measured run has the column {column}")
    value = float(row[column]) * factor
    if not 0 < value < float("inf"):
        raise ValueError(f"{column} > 0, got {row[column]}")
    return value


def _refused(code: codes.Code, rule: str, remedy: str, mark: Mark) -> PlanError:
    return PlanError([Fault(code, (), rule, remedy, mark)])


def row_fault(runs: Runs, index: int, error: Exception) -> PlanError:
    """What is wrong with a row, with its line."""
    mark = Mark(runs.file, runs.lines[index], 1)
    if isinstance(error, PlanError):
        return PlanError([Fault(fault.code, fault.path, fault.rule, fault.remedy, mark) for fault in error.faults])
    return _refused(codes.WRONG_TYPE, str(error), "correct the row", mark)
