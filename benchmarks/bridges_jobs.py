"""What bridges.py runs on the ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.stock_bridge import StockBridge
from executor.bridge.bridge import DisjointBridge
from executor.bridge.packed import SIZES
from executor.groups.grids import build_grids
from executor.groups.groups import ProcessGroups
from executor.start import device
from planner import Plan
from tests.executor.jobs.bridge_jobs import world
from tests.executor.jobs.jobs import TIMEOUT

CPU = torch.device("cpu")


def compare(texts: list[str], tokens: int, trips: int, rounds: int) -> dict[str, Any]:
    """Seconds per round trip by bridge (the stock one, then ours on each plan) and by round; and wrong byte counts."""
    plans = [Plan.from_json(text) for text in texts]
    with world() as context, device.ready():
        opened = [ProcessGroups(plan, context.rank, TIMEOUT) for plan in plans]
        hidden = plans[0].module("language").model.hidden_size  # type: ignore[union-attr]  # the benchmark gives it
        value = torch.randn(tokens, hidden, requires_grad=True)
        setattr(value, SIZES, [tokens // 2, tokens - tokens // 2])
        stock = StockBridge(
            plans[0].bridge("images", "language"), build_grids(plans[0], opened[0]), opened[0], value.dtype
        )
        ours = [DisjointBridge(groups, "images", "language", torch.float32, CPU) for groups in opened]
        trip_of = [_stock(stock, value, is_source=ours[0].is_source), *(_ours(bridge, value) for bridge in ours)]
        seconds: list[list[float]] = [[] for _ in trip_of]
        for number in range(rounds + 1):
            for kind, trip in enumerate(trip_of):
                dist.barrier()
                started = time.perf_counter()
                for _ in range(trips):
                    trip()
                if number:  # the first one warms up
                    seconds[kind].append((time.perf_counter() - started) / trips)
        return {
            "seconds": seconds,
            "faults": [f for b, p in zip(ours, plans, strict=True) for f in _bytes(b, p, tokens)],
        }


def _stock(bridge: StockBridge, value: torch.Tensor, *, is_source: bool) -> Callable[[], None]:
    def source() -> None:
        bridge.send_forward(value)
        bridge.recv_backward()

    def destination() -> None:
        bridge.send_backward(torch.ones_like(bridge.recv_forward()))

    return source if is_source else destination


def _ours(bridge: DisjointBridge, value: torch.Tensor) -> Callable[[], None]:
    def source() -> None:
        bridge.send(value)
        bridge.expect()()

    def destination() -> None:
        bridge.send(torch.ones_like(bridge.expect()()))

    return source if bridge.is_source else destination


def _bytes(bridge: DisjointBridge, plan: Plan, tokens: int) -> list[str]:
    """Make one more round trip and compare the bytes sent with the plan's messages."""
    before, elements = bridge.p2p.num_bytes_sent, tokens * plan.module("language").model.hidden_size  # type: ignore[union-attr,operator]
    _ours(bridge, _value(tokens, elements // tokens))()
    bridge.p2p.flush()
    planned = 0
    for way in ("forward", "backward"):
        for message in plan.traffic("images", "language", dist.get_rank(), way).sends:
            sent_elements = message.elements(elements)
            planned += 4 * (sent_elements.stop - sent_elements.start)
    sent = bridge.p2p.num_bytes_sent - before
    return [] if sent == planned else [f"rank {dist.get_rank()}: {sent} bytes sent, {planned} planned"]


def _value(tokens: int, hidden: int) -> torch.Tensor:
    value = torch.zeros(tokens, hidden)
    setattr(value, SIZES, [tokens // 2, tokens - tokens // 2])
    return value
