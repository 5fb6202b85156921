"""Bridges alone on real ranks: their values and gradients, beside a reference that one process computes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import attrs
import torch
import torch.distributed as dist

from executor.bridge.bridge import DisjointBridge
from executor.bridge.buffer_pool import Pool
from executor.bridge.packed import SIZES, sizes_of
from executor.bridge.shared_bridge import SharedBridge
from executor.errors import ExecutorError, LostPeerError
from executor.groups.groups import ProcessGroups
from executor.start import device
from executor.start.context import Context, connect
from planner import Axis, Plan
from tests.executor.jobs import preload  # noqa: F401
from tests.executor.jobs.jobs import TIMEOUT

MICROBATCHES = 3
HIDDEN = 6


@contextmanager
def world() -> Iterator[Context]:
    """The default group and no other. The groups of plans come later, plan by plan."""
    context = connect(TIMEOUT)
    dist.init_process_group(
        device.backend(), store=context.store, rank=context.rank, world_size=context.world_size, timeout=TIMEOUT
    )
    yield context
    dist.destroy_process_group()


def parity(cases: list[tuple[str, int]], has_backward_groups: bool) -> list[list[str]]:
    """What differs on this rank, for each case. A plan uses the first ranks of the world, while the others wait.

    Args:
        cases: pairs of a plan's document and a seed.
        has_backward_groups: whether operations are posted as with NCCL: in group calls, and with groups of their own
            for gradients.
    """
    found = []
    with world() as context:
        for text, seed in cases:
            plan = Plan.from_json(text)
            if context.rank < plan.world_size:
                groups = ProcessGroups(plan, context.rank, TIMEOUT, has_backward_groups=has_backward_groups)
                found.append(Trial(plan, groups, seed).differences())
            else:
                found.append([])
    return found


@attrs.frozen(eq=False)
class Trial:
    """The edge `images -> language`, with a few microbatches of random values."""

    plan: Plan
    groups: ProcessGroups
    seed: int

    def differences(self) -> list[str]:
        expected = [self._reference(index) for index in range(MICROBATCHES)]
        values, gradients, sent = self._run()
        found = []
        for index, reference in enumerate(expected):
            for what, got, wanted in (
                ("value", values.get(index), reference.get("value")),
                ("gradient", gradients.get(index), reference.get("gradient")),
            ):
                found += _difference(f"microbatch {index}, {what}", got, wanted)
        planned = sum(self._planned_bytes(index) for index in range(MICROBATCHES))
        return found + ([f"{sent} bytes sent, {planned} planned"] if sent != planned else [])

    # ---- one process alone

    def _sizes(self, index: int) -> list[int]:
        output = self.plan.module("images").output
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        num = self.plan.batch_sizes.micro_size
        if output.tokens_per_sample is not None:
            return [output.tokens_per_sample] * num
        if output.tensor_dims == 3:
            return [int(torch.randint(0, 6, (1,), generator=generator))] * num
        drawn = torch.randint(0, 6, (num,), generator=generator)
        is_text_only = index == 1 and self.seed % 3 == 0
        return [0] * num if is_text_only else drawn.tolist()

    def _samples(self, index: int, stream: int) -> list[torch.Tensor]:
        """The values of each sample: (tokens, hidden)."""
        generator = torch.Generator().manual_seed(1_000_000 * self.seed + 1000 * index + stream)
        return [torch.randn(size, self._hidden, generator=generator) for size in self._sizes(index)]

    @property
    def _hidden(self) -> int:
        model = self.plan.module("language").model
        return HIDDEN if model is None else model.hidden_size or HIDDEN

    def _cp(self, module: str) -> tuple[int, int]:
        return self.groups.view.coords[module][Axis.CP], self.plan.module(module).grid.size_of(Axis.CP)

    def _loss(self, values: list[torch.Tensor], index: int, samples: range, coord: int) -> torch.Tensor:
        """What one cp rank of the destination computes. It depends on the cp coord, and is not linear in the values."""
        weights = self._samples(index, 1 + coord)
        terms = [(torch.sin(value) * weights[sample]).sum() for sample, value in zip(samples, values, strict=True)]
        return torch.stack(terms).sum()

    def _reference(self, index: int) -> dict[str, torch.Tensor]:
        """What this rank must hold: the samples of its lane, and the gradients of its own part of them."""
        samples = [value.requires_grad_() for value in self._samples(index, 0)]
        everyone = range(len(samples))
        for coord in range(self.plan.module("language").grid.size_of(Axis.CP)):
            self._loss(samples, index, everyone, coord).backward()
        slices, role = self.groups.view.batch_slices, self.groups.view.role
        found = {}
        if role.is_first_stage("language"):
            found["value"] = self._tensor([samples[i].detach() for i in everyone[slices["language"]]])
        if role.is_last_stage("images"):
            coord, size = self._cp("images")
            gradients = [samples[i].grad.tensor_split(size)[coord] for i in everyone[slices["images"]]]
            found["gradient"] = self._tensor(gradients)
        return found

    def _tensor(self, samples: list[torch.Tensor]) -> torch.Tensor:
        """The samples as one tensor, in the dims that the plan says."""
        output = self.plan.module("images").output
        return torch.cat(samples) if output.tensor_dims == 2 else torch.stack(samples, dim=output.batch_dim or 0)

    # ---- real ranks

    def _output(self, index: int) -> torch.Tensor:
        coord, size = self._cp("images")
        mine = self._samples(index, 0)[self.groups.view.batch_slices["images"]]
        parts = [sample.tensor_split(size)[coord] for sample in mine]
        value = self._tensor(parts).requires_grad_()
        setattr(value, SIZES, [len(part) for part in parts])
        return value

    def _gradient(self, value: torch.Tensor, index: int) -> torch.Tensor:
        """The gradient of this cp rank's loss, by autograd."""
        taken, dim = self.groups.view.batch_slices["language"], self.plan.module("images").output
        samples = range(self.plan.batch_sizes.micro_size)[taken]
        sizes = self._sizes(index)[taken]
        leaf = value.detach().requires_grad_()
        pieces = list(leaf.split(sizes)) if dim.tensor_dims == 2 else list(leaf.unbind(dim.batch_dim or 0))
        self._loss(pieces, index, samples, self._cp("language")[0]).backward()
        assert leaf.grad is not None
        return leaf.grad

    def _run(self) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor], int]:
        role = self.groups.view.role
        if not (role.is_last_stage("images") or role.is_first_stage("language")):
            return {}, {}, 0
        shared = bool(self.plan.pipeline.shared)
        end = (SharedBridge if shared else DisjointBridge)(
            self.groups, "images", "language", torch.float32, torch.device("cpu")
        )
        values, gradients = (self._run_shared if isinstance(end, SharedBridge) else self._run_apart)(end)
        end.p2p.flush()
        return values, gradients, end.p2p.num_bytes_sent

    def _run_apart(self, end: DisjointBridge) -> Any:
        """Send as a pipeline does: the source is two microbatches ahead, and the gradients lag behind."""
        values: dict[int, torch.Tensor] = {}
        gradients: dict[int, torch.Tensor] = {}
        if end.is_source:
            for index in range(MICROBATCHES):
                end.send(self._output(index))
                if index >= 1:
                    gradients[index - 1] = end.expect()().clone()
            gradients[MICROBATCHES - 1] = end.expect()().clone()
            return values, gradients
        for index in range(MICROBATCHES):
            values[index] = end.expect()()
            end.send(self._gradient(values[index], index))
            values[index] = values[index].detach().clone()
        return values, gradients

    def _run_shared(self, end: SharedBridge) -> Any:
        values: dict[int, torch.Tensor] = {}
        gradients: dict[int, torch.Tensor] = {}
        for index in range(MICROBATCHES):
            output = self._output(index) if end.is_source else None
            result, anchor = end.exchange(output)
            if result is not None:
                values[index] = result.detach()
                result.backward(self._gradient(result, index))
            else:
                anchor.backward()
            if output is not None:
                assert output.grad is not None
                gradients[index] = output.grad
        return values, gradients

    def _planned_bytes(self, index: int) -> int:
        """The bytes of float32 that this rank sends, by the messages of the plan."""
        sizes, total = self._sizes(index), 0
        for way in ("forward", "backward"):
            for message in self.plan.traffic("images", "language", self.groups.rank, way).sends:
                transfer = message.transfer
                per_lane = self.plan.batch.samples_per_lane["images"]
                first = transfer.src_lane * per_lane + transfer.src_start
                elements = sum(sizes[first : first + transfer.num_samples]) * self._hidden
                part = message.elements(elements)
                total += 4 * (part.stop - part.start) * (message.sender != message.receiver)
        return total


def _difference(what: str, got: torch.Tensor | None, wanted: torch.Tensor | None) -> list[str]:
    if got is None or wanted is None:
        return [] if got is wanted else [f"{what}: got {got}, wanted {wanted}"]
    if got.shape != wanted.shape:
        return [f"{what}: shape {tuple(got.shape)}, wanted {tuple(wanted.shape)}"]
    gap = float((got - wanted).abs().max()) if got.numel() else 0.0
    return [f"{what}: differs by {gap}"] if gap > 1e-6 else []


def lost(text: str, victim: int, how: str, timeout: float) -> tuple[str, float]:
    """What this rank said of a lost peer, and after how many seconds.

    There are two microbatches. In the second one, a rank dies or falls silent between headers and rows.
    """
    plan = Plan.from_json(text)
    context = connect(TIMEOUT)
    dist.init_process_group("gloo", store=context.store, rank=context.rank, world_size=context.world_size)
    trial = Trial(plan, ProcessGroups(plan, context.rank, timedelta(seconds=timeout)), seed=1)
    kind = SharedBridge if plan.pipeline.shared else DisjointBridge
    end: DisjointBridge | SharedBridge = kind(trial.groups, "images", "language", torch.float32, torch.device("cpu"))
    real = end.p2p.post
    calls = []

    def post(tensors: Any, direction: Any) -> Any:
        calls.append(None)
        if context.rank == victim and len(calls) > len(first) + 1:
            time.sleep(3 * timeout) if how == "silent" else os._exit(9)
        return real(tensors, direction)

    end.p2p.post = post  # type: ignore[method-assign]
    first: list[None] = [None] * 10_000
    trip = _both if isinstance(end, SharedBridge) else _source if end.is_source else _destination
    trip(trial, end, 0)
    first = list(calls)
    started = time.perf_counter()
    try:
        trip(trial, end, 1)
        end.p2p.flush()
    except LostPeerError as error:
        return str(error), time.perf_counter() - started
    return "", time.perf_counter() - started


def _source(trial: Trial, end: DisjointBridge, index: int) -> None:
    end.send(trial._output(index))
    end.expect()()


def _both(trial: Trial, end: SharedBridge, index: int) -> None:
    result, _ = end.exchange(trial._output(index))
    assert result is not None
    result.backward(trial._gradient(result, index))


def _destination(trial: Trial, end: DisjointBridge, index: int) -> None:
    end.send(trial._gradient(end.expect()(), index))


def buffers() -> dict[str, Any]:
    """Whether memory is given out again, by what refers to it."""
    pool = Pool(torch.float32, torch.device("cpu"))
    found: dict[str, Any] = {}

    def again(place: int) -> bool:
        return pool.take(8).data_ptr() == place

    place = pool.take(8).data_ptr()
    found["dropped"] = again(place)
    held = pool.take(8)
    found["held"] = again(held.data_ptr())
    view, place = held.view(2, 4)[0], held.data_ptr()
    del held
    found["a view of a view"] = any(again(place) for _ in range(4))
    del view
    weight = torch.ones(8, requires_grad=True)
    leaf = pool.take(8).detach().requires_grad_()
    place, total = leaf.data_ptr(), (leaf * weight).sum()
    del leaf
    found["saved by autograd"] = any(again(place) for _ in range(4))
    total.backward()
    del total
    found["after backward"] = any(again(place) for _ in range(4))
    parameter = torch.zeros(2, 4, requires_grad=True)
    output, gradient = parameter.view(8), pool.take(8)
    place = gradient.data_ptr()
    output.backward(gradient)
    del gradient, output
    taken = parameter.grad is not None and parameter.grad.data_ptr() == place
    assert taken, "autograd took the gradient over, which is what this is about"
    found["taken over as a parameter's gradient"] = any(again(place) for _ in range(4))
    found["smaller"] = pool.take(3).numel() == 3
    found["allocated"] = pool.num_allocated
    return found


def transposed(text: str) -> str:
    """What a source says of a tensor whose samples and tokens are exchanged."""
    output = Plan.from_json(text).module("images").output
    try:
        sizes_of(torch.zeros(3, 1, HIDDEN), output, 1, (0, 1))
    except ExecutorError as error:
        return str(error)
    return ""
