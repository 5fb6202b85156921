"""Proof that what was created is what the plan says, before anything is trained.

Groups: every member contributes (1, rank, rank^2); a group whose number, sum and sum of squares of members equal the
plan's has the plan's members. Plain sums would not do: {0, 3} and {1, 2} both give 3 (Megatron-Bridge #4985 shipped
groups that cross-talked silently). Bridges: each source lane sends rows numbered by the sample that they belong to;
each receiver compares with its own slice of the microbatch, and sends numbered gradients back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import attrs
import torch
import torch.distributed as dist

from planner import Bridge, ModuleLayout, Plan

from .bridge import PlannedBridge, PlannedColocatedBridge
from .grids import build_grids
from .groups import ProcessGroups

WIDTH = 1024
_TOKENS = 4  # per sample, where the bridge wants equally many
_BACKWARD = 1000  # gradients are numbered from here, so that no forward tensor passes for one


@attrs.frozen
class BridgeTime:
    """A round trip over a bridge: bytes that cross it on all ranks together, and this rank's seconds."""

    name: str
    num_bytes: int
    seconds: float


@attrs.frozen
class Findings:
    """What one rank found. `faults` is empty where all is as planned."""

    faults: tuple[str, ...]
    bridges: tuple[BridgeTime, ...]


def check(groups: ProcessGroups, device: torch.device) -> Findings:
    """Try every group and every bridge; collective over the world."""
    faults = list(check_groups(groups, device))
    times = []
    for bridge in groups.plan.bridges:
        found, measured = check_bridge(bridge, groups, device)
        faults += found
        times.append(measured)
    return Findings(tuple(faults), tuple(times))


def check_groups(groups: ProcessGroups, device: torch.device) -> Iterator[str]:
    """Reduce the members' numbers over every group of this rank, in creation order."""
    rank = groups.rank
    for group, process_group in groups:
        numbers = torch.tensor([1, rank, rank * rank], dtype=torch.int64, device=device)
        dist.all_reduce(numbers, group=process_group)
        planned = [len(group.ranks), sum(group.ranks), sum(member * member for member in group.ranks)]
        if numbers.tolist() != planned:
            yield (
                f"rank {rank}: {group.kind} group {group.index} of {group.owner} is {group.ranks} in the plan, with "
                f"(count, sum, squares) = {planned}, but reduces to {numbers.tolist()}"
            )


def check_bridge(bridge: Bridge, groups: ProcessGroups, device: torch.device) -> tuple[list[str], BridgeTime]:
    """Carry a numbered tensor over one bridge and a numbered gradient back, twice: the second round is timed."""
    trip = _Colocated if groups.plan.layout is ModuleLayout.COLOCATED else _Apart
    rounds = trip(bridge, groups, device)
    faults = rounds.run()
    dist.barrier()
    started = time.perf_counter()
    faults += rounds.run()
    seconds = time.perf_counter() - started
    return list(dict.fromkeys(faults)), BridgeTime(bridge.name, _bytes_of(bridge, groups), seconds)


@attrs.frozen
class _Rows:
    """Numbered rows of a lane: row i holds the number of the sample that its token belongs to."""

    tokens: tuple[int, ...]  # per sample of the microbatch
    device: torch.device

    def of(self, samples: slice, first: int = 0) -> torch.Tensor:
        counts = torch.tensor(self.tokens[samples])
        numbers = torch.arange(samples.start, samples.stop).repeat_interleave(counts) + first
        return numbers.float().unsqueeze(1).expand(-1, WIDTH).contiguous().to(self.device)


def tokens_per_sample(plan: Plan, bridge: Bridge) -> tuple[int, ...]:
    """Tokens of each sample of a microbatch: unequal where the stock bridge can carry that."""
    num_src, num_dst = (plan.module(name).grid.num_lanes for name in (bridge.src, bridge.dst))
    shared = plan.layout is ModuleLayout.COLOCATED
    varies = num_src == num_dst or (num_src < num_dst and not shared)
    return tuple(_TOKENS + sample % 3 if varies else _TOKENS for sample in range(plan.batch_sizes.micro_size))


def _bytes_of(bridge: Bridge, groups: ProcessGroups) -> int:
    """Bytes that cross the bridge in one round trip, of float32."""
    tokens = tokens_per_sample(groups.plan, bridge)
    return 2 * 4 * WIDTH * sum(tokens)


class _Apart:
    """A bridge between modules on ranks of their own."""

    def __init__(self, bridge: Bridge, groups: ProcessGroups, device: torch.device) -> None:
        self._bridge, self._view = bridge, groups.view
        self._rows = _Rows(tokens_per_sample(groups.plan, bridge), device)
        self._communicator = PlannedBridge(bridge, build_grids(groups.plan, groups), groups, torch.float32)

    def run(self) -> list[str]:
        """One round trip; what arrived wrong."""
        view, sides = self._view, self._view.role
        faults: list[str] = []
        if sides.is_last_stage(self._bridge.src):
            samples = view.batch_slices[self._bridge.src]
            rows = self._rows.of(samples)
            rows._mimo_bridge_split_sizes = list(self._rows.tokens[samples])  # type: ignore[attr-defined]
            self._communicator.send_forward(rows)
        if sides.is_first_stage(self._bridge.dst):
            samples = view.batch_slices[self._bridge.dst]
            received = self._communicator.recv_forward()
            faults += self._compare("forward", received, self._rows.of(samples))
            self._communicator.send_backward(self._rows.of(samples, _BACKWARD))
        if sides.is_last_stage(self._bridge.src):
            gradient = self._communicator.recv_backward()
            samples = view.batch_slices[self._bridge.src]
            faults += self._compare("backward", gradient, self._rows.of(samples, _BACKWARD))
        return faults

    def _compare(self, way: str, found: torch.Tensor, planned: torch.Tensor) -> list[str]:
        return _compare(f"rank {self._view.rank}: bridge {self._bridge.name}, {way}", found, planned)


class _Colocated:
    """A bridge between modules on the same ranks."""

    def __init__(self, bridge: Bridge, groups: ProcessGroups, device: torch.device) -> None:
        self._bridge, self._view = bridge, groups.view
        grids = build_grids(groups.plan, groups)
        self._rows = _Rows(tokens_per_sample(groups.plan, bridge), device)
        self._communicator = PlannedColocatedBridge(grids[bridge.src], grids[bridge.dst], groups)

    def run(self) -> list[str]:
        """One round trip; what arrived wrong."""
        source, target = (self._view.batch_slices[name] for name in (self._bridge.src, self._bridge.dst))
        rows = self._rows.of(source).requires_grad_()
        received = self._communicator.communicate(rows)
        faults = self._compare("forward", received.detach(), self._rows.of(target))
        received.backward(self._rows.of(target, _BACKWARD))
        return faults + self._compare("backward", rows.grad, self._rows.of(source, _BACKWARD))

    def _compare(self, way: str, found: torch.Tensor | None, planned: torch.Tensor) -> list[str]:
        return _compare(f"rank {self._view.rank}: bridge {self._bridge.name}, {way}", found, planned)


def _compare(where: str, found: torch.Tensor | None, planned: torch.Tensor) -> list[str]:
    if found is not None and found.shape == planned.shape and torch.equal(found.detach(), planned):
        return []
    numbers = "nothing" if found is None else _samples(found)
    return [f"{where}: samples {_samples(planned)} are planned, {numbers} arrived"]


def _samples(rows: torch.Tensor) -> str:
    """The sample numbers of rows, with the number of tokens of each."""
    values, counts = torch.unique(rows.detach()[:, 0], return_counts=True)
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    return ", ".join(f"{int(value) % _BACKWARD} (x{count})" for value, count in pairs) or "none"
