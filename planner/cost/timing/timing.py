"""Work -> seconds on a GPU, by five short rules. None of them knows a model or a layout.

- A matrix product runs in waves of tiles, one tile per streaming multiprocessor; the last wave costs as much as a full
  one. A tile of a x b costs 1 + TILE_EDGE * (1/a + 1/b) times its multiplications, because it loads its edges. The best
  of a few tile sizes is taken. A product takes at least the time that memory needs for its bytes.
- All other kernels cost their bytes over the memory bandwidth, and a start-up time each.
- A collective costs the latency of its ring's steps, and its bytes over the bandwidth of the link that its span uses.
- A CPU launches the kernels while the GPU computes, and runs ahead if the GPU is the slower one. So a layer's forward
  and backward passes together take (gpu^4 + cpu^4)^(1/4): about the larger of the two, and more if they are equal.
- If a job spans several nodes, every stage slows down by one factor: the slowest of many nodes sets the pace.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import ceil

from ...base.frozen import frozen
from ...layout.ir import GroupKind
from ..work.ops import Collective, CollectiveOp, MatMul, StagePart, StageWork, Work, share_moved
from .group_spans import ALONE, Span
from .hardware import Hardware

TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 64))
TILE_EDGE = 44.0  # what small tiles lose; every fit gave 40 to 48
_OVERLAP = 4  # the exponent with which CPU and GPU times combine


@frozen(kw_only=True)
class Rates:
    """The constants of a GPU in plain units: seconds, bytes per second, and FLOPs per second.

    Attributes:
        num_sms: number of streaming multiprocessors.
        flops, core_flops: FLOPs per second of a large matrix product, and of flash attention's core.
        memory, nvlink, network: bytes per second of a GPU's memory, of its NVLink, and of its network card.
        ring_share: share of its cards' bandwidth that a ring gets with several, but not all, ranks of each node.
        latency: seconds of a message, and of each step of a ring, beside those of its bytes.
        kernel: seconds to start and end a kernel.
        launch: seconds that a CPU takes to launch a layer's pass.
        launch_wait: share that launching takes longer per further rank of the tp group.
        microbatch: seconds of a stage per microbatch on the host, outside the layers.
        scale_out: factor on a stage's time if a job spans several nodes.
    """

    num_sms: int
    flops: float
    core_flops: float
    memory: float
    nvlink: float
    network: float
    ring_share: float
    latency: float
    kernel: float
    launch: float
    launch_wait: float
    microbatch: float
    scale_out: float


def rates_of(hardware: Hardware) -> Rates:
    """The constants of a hardware file in plain units."""
    flops = hardware.product_tflops.value * 1e12
    return Rates(
        num_sms=hardware.num_sms,
        flops=flops,
        core_flops=flops * hardware.attention_share.value,
        memory=hardware.memory_gb_s.value * 1e9,
        nvlink=hardware.nvlink_gb_s.value * 1e9,
        network=hardware.network_gb_s.value * 1e9,
        ring_share=hardware.ring_share.value,
        latency=hardware.hop_us.value * 1e-6,
        kernel=hardware.kernel_us.value * 1e-6,
        launch=hardware.launch_ms.value * 1e-3,
        launch_wait=hardware.launch_wait.value,
        microbatch=hardware.microbatch_ms.value * 1e-3,
        scale_out=hardware.scale_out.value,
    )


Spans = Mapping[GroupKind, Span]
"""The span of a module's groups of each kind."""


@lru_cache(maxsize=65536)
def tile_operations(matmul: MatMul, num_sms: int) -> float:
    """FLOPs that the whole GPU could do, at the rate of a large product, while this product's waves of tiles run."""
    full = 1 + TILE_EDGE * (1 / 256 + 1 / 128)
    best = float("inf")
    for rows, columns in TILES:
        tiles = matmul.count * ceil(matmul.m / rows) * ceil(matmul.n / columns)
        cost = (1 + TILE_EDGE * (1 / rows + 1 / columns)) / full
        best = min(best, ceil(tiles / num_sms) * num_sms * 2 * rows * columns * matmul.k * cost)
    return best


def matmul_seconds(matmul: MatMul, rates: Rates) -> float:
    """Seconds of one kernel, which computes all `count` products."""
    compute = tile_operations(matmul, rates.num_sms) / rates.flops
    return max(compute, matmul.num_bytes / rates.memory) + rates.kernel


def collective_seconds(collective: Collective, span: Span, rates: Rates) -> float:
    """Seconds of all `count` collectives over a group of that span, one after the other."""
    return collective.count * op_seconds(collective.op, collective.num_bytes, span, rates)


def op_seconds(op: CollectiveOp, num_bytes: float, span: Span, rates: Rates) -> float:
    """Seconds of one collective of a buffer over a group of that span."""
    if span.size <= 1:
        return 0.0
    network = span.num_cards(rates.ring_share) * rates.network
    bandwidth = min(rates.nvlink, network) if span.crosses else rates.nvlink
    steps = 1 if op is CollectiveOp.SEND else span.size - 1
    return num_bytes * share_moved(op, span.size) / bandwidth + rates.latency * steps


def work_seconds(work: Work, spans: Spans, rates: Rates) -> float:
    """Seconds that the GPU takes for a pass, one kernel after the other."""
    compute = sum(matmul_seconds(matmul, rates) for matmul in work.matmuls) + work.core_flops / rates.core_flops
    collectives = sum(collective_seconds(one, spans.get(one.kind, ALONE), rates) for one in work.collectives)
    return compute + work.num_bytes / rates.memory + work.kernels * rates.kernel + collectives


def part_seconds(part: StagePart, spans: Spans, rates: Rates) -> tuple[float, float]:
    """(forward, backward) seconds of all copies of a part, for one microbatch."""
    forward, backward = work_seconds(part.forward, spans, rates), work_seconds(part.backward, spans, rates)
    gpu = forward + backward
    cpu = part.launches * rates.launch * (1 + rates.launch_wait * (spans.get(GroupKind.TP, ALONE).size - 1))
    factor = part.count * (float((gpu**_OVERLAP + cpu**_OVERLAP) ** (1 / _OVERLAP)) / gpu if cpu else 1.0)
    return factor * forward, factor * backward


def stage_seconds(work: StageWork, spans: Spans, rates: Rates, *, scales_out: bool) -> tuple[float, float]:
    """(forward, backward) seconds of one microbatch on a stage.

    Args:
        work: the work of the stage.
        spans: the spans of its module's groups.
        rates: the constants of the GPU.
        scales_out: whether the job spans several nodes.
    """
    factor = rates.scale_out if scales_out else 1.0
    times = [part_seconds(part, spans, rates) for part in work.parts]
    host = rates.microbatch / 2 if times else 0.0
    has_backward = work.backward_flops > 0
    forward = factor * (sum(time for time, _ in times) + host)
    return forward, factor * (sum(time for _, time in times) + host) if has_backward else 0.0
