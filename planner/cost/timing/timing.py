"""Work -> seconds on a GPU: five short rules, none of which knows a model or a layout.

- A product runs in waves of tiles, one per streaming multiprocessor; the last wave costs as much as a full one. A tile
  of a x b costs 1 + TILE_EDGE * (1/a + 1/b) times its multiplications, since it loads its edges. Of a few tile sizes
  the best is taken, and memory may be what limits it.
- Everything else is bytes over memory bandwidth, and a start-up time per kernel.
- A message costs its ring's hops, and its bytes over the link that its span uses.
- A CPU launches the kernels while the GPU computes, and runs ahead where the GPU is the slower one. So a layer's
  forward and backward passes take (gpu^4 + cpu^4)^(1/4) together: about the larger one, more where they are equal.
- Over several nodes all of a stage slows down by one factor: the slowest of many nodes sets the pace.
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
TILE_EDGE = 44.0  # between 40 and 48 in every fit; how much a small tile loses
_OVERLAP = 4


@frozen(kw_only=True)
class Rates:
    """A hardware's constants in plain units: seconds, bytes and operations per second."""

    num_sms: int
    flops: float
    core_flops: float
    memory: float
    nvlink: float
    network: float
    ring_share: float
    hop: float
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
        hop=hardware.hop_us.value * 1e-6,
        kernel=hardware.kernel_us.value * 1e-6,
        launch=hardware.launch_ms.value * 1e-3,
        launch_wait=hardware.launch_wait.value,
        microbatch=hardware.microbatch_ms.value * 1e-3,
        scale_out=hardware.scale_out.value,
    )


Spans = Mapping[GroupKind, Span]


@lru_cache(maxsize=65536)
def tile_operations(product: MatMul, num_sms: int) -> float:
    """Multiplications and additions that the product's waves of tiles take the time of, per whole GPU."""
    full = 1 + TILE_EDGE * (1 / 256 + 1 / 128)
    best = float("inf")
    for rows, columns in TILES:
        tiles = product.count * ceil(product.m / rows) * ceil(product.n / columns)
        cost = (1 + TILE_EDGE * (1 / rows + 1 / columns)) / full
        best = min(best, ceil(tiles / num_sms) * num_sms * 2 * rows * columns * product.k * cost)
    return best


def matmul_seconds(product: MatMul, rates: Rates) -> float:
    """One kernel of (batched) products."""
    compute = tile_operations(product, rates.num_sms) / rates.flops
    return max(compute, product.num_bytes / rates.memory) + rates.kernel


def collective_seconds(message: Collective, span: Span, rates: Rates) -> float:
    """All `count` collectives of a message, over a group of that span."""
    return message.count * op_seconds(message.op, message.num_bytes, span, rates)


def op_seconds(op: CollectiveOp, num_bytes: float, span: Span, rates: Rates) -> float:
    """One collective of a buffer."""
    if span.size <= 1:
        return 0.0
    network = span.num_cards(rates.ring_share) * rates.network
    bandwidth = min(rates.nvlink, network) if span.crosses else rates.nvlink
    hops = 1 if op is CollectiveOp.SEND else span.size - 1
    return num_bytes * share_moved(op, span.size) / bandwidth + rates.hop * hops


def work_seconds(work: Work, spans: Spans, rates: Rates) -> float:
    """What the GPU takes, one kernel after the other."""
    compute = sum(matmul_seconds(product, rates) for product in work.matmuls) + work.core_flops / rates.core_flops
    collectives = sum(collective_seconds(one, spans.get(one.kind, ALONE), rates) for one in work.collectives)
    return compute + work.num_bytes / rates.memory + work.kernels * rates.kernel + collectives


def part_seconds(part: StagePart, spans: Spans, rates: Rates) -> tuple[float, float]:
    """(forward, backward) of all copies of a part."""
    forward, backward = work_seconds(part.forward, spans, rates), work_seconds(part.backward, spans, rates)
    gpu = forward + backward
    cpu = part.launches * rates.launch * (1 + rates.launch_wait * (spans.get(GroupKind.TP, ALONE).size - 1))
    both = part.count * (float((gpu**_OVERLAP + cpu**_OVERLAP) ** (1 / _OVERLAP)) / gpu if cpu else 1.0)
    return both * forward, both * backward


def stage_seconds(work: StageWork, spans: Spans, rates: Rates, *, scales_out: bool) -> tuple[float, float]:
    """(forward, backward) of one microbatch on a stage."""
    factor = rates.scale_out if scales_out else 1.0
    times = [part_seconds(part, spans, rates) for part in work.parts]
    host = rates.microbatch / 2 if times else 0.0
    has_backward = work.backward_flops > 0
    forward = factor * (sum(time for time, _ in times) + host)
    return forward, factor * (sum(time for _, time in times) + host) if has_backward else 0.0
