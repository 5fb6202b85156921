"""Training steps: a plan becomes a wrapped model, megatron-core's schedule and its multi-module optimizer.

One schedule for every layout, `forward_backward_pipelining_without_interleaving`; modules on the same ranks are one
stage of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel.schedules import forward_backward_pipelining_without_interleaving
from megatron.core.process_groups_config import MultiModuleProcessGroupCollection

from planner import MIMO_LANGUAGE_MODULE_KEY, Plan
from planner.data import INPUT_IDS, LABELS, LOSS_MASK, POSITION_IDS

from .compare import check_model
from .data import Microbatch, Synthetic
from .ddp import default_config, wrap
from .device import memory_bytes
from .errors import ExecutorError
from .gradients import Finalizer, counts_tokens
from .grids import collection_of
from .groups import ProcessGroups
from .model import PlannedMimoModel, build_model
from .optimizer import build_optimizer, optimizer_config
from .pipeline import PipelineCommunicator
from .rng import Streams, seed_streams
from .weights import initialize

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@attrs.frozen(kw_only=True)
class Settings:
    """How to train. `dtype` is a key of DTYPES."""

    dtype: str
    optimizer: str
    lr: float
    distributed_optimizer: bool
    seed: int = 1234

    @classmethod
    def of(cls, plan: Plan, **changes: Any) -> Settings:
        """The plan's training settings, with those that are not None in `changes` replaced."""
        training = attrs.asdict(plan.training)
        chosen = training | {name: value for name, value in changes.items() if value is not None}
        if chosen["optimizer"] == "sgd" and chosen["distributed_optimizer"]:
            raise ExecutorError("megatron-core 0.19 shards the state of adam only: set distributed_optimizer: false")
        if chosen["dtype"] not in DTYPES:
            raise ExecutorError(f"dtype is one of {', '.join(DTYPES)} here, got {chosen['dtype']}; set --dtype")
        return cls(**chosen)


@attrs.frozen
class Step:
    """What one step reports; the same on every rank but `seconds` and `memory_bytes`."""

    step: int
    loss: float
    grad_norm: float
    num_tokens: int
    seconds: float
    memory_bytes: int

    def metrics(self) -> dict[str, float]:
        """The keys of a line of `--metrics`."""
        return {name: getattr(self, name) for name in ("step", "loss", "grad_norm", "num_tokens", "seconds")}


class Trainer:
    """One rank's part of a training run. Building it is collective."""

    def __init__(
        self, plan: Plan, groups: ProcessGroups, samples: Synthetic, settings: Settings, device: torch.device
    ) -> None:
        self.plan, self.view, self._device, self._samples = plan, groups.view, device, samples
        dtype = DTYPES[settings.dtype]
        seed_streams(groups, settings.seed)
        self.model = build_model(plan, groups, dtype, device).to(device)
        check_model(self.model, groups)
        initialize(self.model, settings.seed)
        Streams(groups.view, settings.seed).attach(self.model)
        wrap(self.model, groups, default_config(distributed_optimizer=settings.distributed_optimizer))
        self._finalizer = Finalizer(groups, device)
        config = self.model.config
        config.finalize_model_grads_func = self._finalizer
        self._communicator = PipelineCommunicator(groups, config, device)
        self._collection = _schedule_collection(groups)
        chosen = optimizer_config(
            optimizer=settings.optimizer,
            lr=settings.lr,
            dtype=dtype,
            distributed_optimizer=settings.distributed_optimizer,
        )
        self._optimizer = build_optimizer(self.model, groups, chosen)

    def run(self, num_steps: int) -> Iterator[Step]:
        """Train, yielding after each step."""
        for step in range(num_steps):
            yield self.step(step)

    def step(self, step: int) -> Step:
        """One optimizer step over the global batch."""
        started = time.perf_counter()
        self.model.zero_grad_buffer()
        self._optimizer.zero_grad()
        losses = forward_backward_pipelining_without_interleaving(
            forward_step_func=self._forward,
            data_iterator=self._microbatches(step),
            model=self.model,
            num_microbatches=self.plan.batch.num_microbatches,
            seq_length=self.plan.batch_sizes.seq_length,
            micro_batch_size=self.plan.batch_sizes.micro_size,
            p2p_communicator=self._communicator,
            pg_collection=self._collection,
        )
        updated, grad_norm, _ = self._optimizer.step()
        num_tokens = self._finalizer.num_tokens
        loss = self._total(losses) / max(1, num_tokens)
        # Both numbers are the whole world's, so that all ranks stop at the same step.
        if not updated:
            raise ExecutorError(
                f"step {step}: gradients are not finite; no weight was changed; lower the learning rate"
            )
        if not (math.isfinite(grad_norm) and math.isfinite(loss)):
            found = f"loss {loss}, gradient norm {grad_norm}"
            raise ExecutorError(f"step {step}: not finite: {found}; the weights are spoilt, lower the learning rate")
        return Step(step, loss, float(grad_norm), num_tokens, time.perf_counter() - started, memory_bytes())

    def _microbatches(self, step: int) -> Iterator[Microbatch]:
        return (self._samples.microbatch(step, index) for index in range(self.plan.batch.num_microbatches))

    def _forward(self, data_iterator: Iterator[Microbatch], model: PlannedMimoModel) -> tuple[Any, Callable[..., Any]]:
        """What the schedule calls per microbatch."""
        batch = next(data_iterator)
        text = {key: value.to(self._device) for key, value in self._text(batch).items()}
        output, loss_mask = model(
            input_ids=text[INPUT_IDS],
            position_ids=text[POSITION_IDS],
            labels=text[LABELS],
            loss_mask=text[LOSS_MASK],
            modality_inputs=self._modality_inputs(batch),
            modality_input_ids=self._modality_input_ids(batch),
        )
        return output, partial(summed_loss, loss_mask)

    def _text(self, batch: Microbatch) -> dict[str, torch.Tensor]:
        """Language's lane, or the lane of the rank's first encoder: its last stage finds sample boundaries in it."""
        slices = self.view.batch_slices
        samples = slices.get(MIMO_LANGUAGE_MODULE_KEY) or next(iter(slices.values()))
        return batch.text_of(samples)

    def _modality_input_ids(self, batch: Microbatch) -> dict[str, torch.Tensor]:
        """The ids of each encoder's own lane."""
        slices = self.view.batch_slices
        return {name: batch.text[INPUT_IDS][slices[name]].to(self._device) for name in self.model.modality_submodules}

    def _modality_inputs(self, batch: Microbatch) -> dict[str, Any] | None:
        """The inputs of every encoder whose first stage this rank is."""
        found: dict[str, Any] = {}
        for name in self.model.modality_submodules:
            inputs = batch.items_of(name, self.view.batch_slices[name])
            if inputs is not None and self.view.role.is_first_stage(name):
                encoder = self.plan.module(name).model.family  # type: ignore[union-attr]  # built from it
                argument = {"inputs": inputs.to(self._device)}
                found[name] = {encoder: argument}
        return found or None

    def _total(self, losses: list[torch.Tensor]) -> float:
        """The sum of all tokens' losses over the world."""
        mine = sum(float(loss) for loss in losses) if counts_tokens(self.view) else 0.0
        total = torch.tensor([mine], dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return float(total.item())


def summed_loss(loss_mask: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sum of the losses of all tokens that count, and their number; output: (samples, tokens)."""
    loss = (output.float() * loss_mask).sum()
    return loss, loss_mask.sum().to(torch.int), loss.detach()


def _schedule_collection(groups: ProcessGroups) -> MultiModuleProcessGroupCollection:
    modules = list(groups.view.role.modules)
    language = MIMO_LANGUAGE_MODULE_KEY if MIMO_LANGUAGE_MODULE_KEY in modules else None
    return MultiModuleProcessGroupCollection({name: collection_of(name, groups) for name in modules}, language)
