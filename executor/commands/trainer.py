"""Training steps: a plan becomes a wrapped model, megatron-core's schedule and its multi-module optimizer.

Every layout runs on one schedule, `forward_backward_pipelining_without_interleaving`, in which modules on the same
ranks form one stage.
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

from ..start import device as _device  # noqa: F401  # isort: skip  before megatron-core: see executor/__init__.py
from megatron.core.pipeline_parallel.schedules import forward_backward_pipelining_without_interleaving

from planner import Plan

from ..checks.consistency import Checks
from ..errors import ExecutorError
from ..groups.groups import ProcessGroups
from ..library.loop import (
    build_communicator,
    build_pg_collection_for_schedule,
    get_module_to_grid_tuple,
    multimodule_no_sync,
    zero_grad_buffer_for_multimodule,
)
from ..library.provider import LlavaMimoProvider
from ..model.model import PlannedMimoModel
from ..model.transformer import model_of
from ..start.device import memory_bytes
from ..training.ddp import default_config
from ..training.gradients import counts_tokens, finalize_model_grads_multimodule
from ..training.optimizer import build_optimizer, optimizer_config
from ..training.slicing import NumItems, batch_of_rank
from ..training.synthetic_data import Microbatch, Synthetic
from ..watch import progress

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@attrs.frozen(kw_only=True)
class TrainSettings:
    """How to train: the plan's training settings with those of the command line. `dtype` is a key of DTYPES."""

    dtype: str
    optimizer: str
    lr: float
    distributed_optimizer: bool
    seed: int = 1234

    @classmethod
    def of(cls, plan: Plan, **changes: Any) -> TrainSettings:
        """The plan's training settings, overridden by the values in `changes` that are not None.

        `check_limits` refuses those that megatron-core cannot train with.
        """
        training = attrs.asdict(plan.training)
        return cls(**training | {name: value for name, value in changes.items() if value is not None})


@attrs.frozen
class Step:
    """What one step reports. Equal on all ranks, except for `seconds` and `memory_bytes`."""

    step: int
    loss: float
    grad_norm: float
    num_tokens: int
    seconds: float
    memory_bytes: int

    def metrics(self) -> dict[str, float]:
        """The step as keys of a line of `--metrics`."""
        return attrs.asdict(self)


class Trainer:
    """One rank's part of a training run. Building it is collective."""

    def __init__(
        self,
        plan: Plan,
        groups: ProcessGroups,
        samples: Synthetic,
        settings: TrainSettings,
        device: torch.device,
        *,
        check_every: int = 0,
    ) -> None:
        """Build the rank's model and its optimizer.

        Args:
            check_every: steps from one whose data and weights are checked to the next; 0 for none.
        """
        progress.at("building the model")
        self.plan, self.view, self._device, self._samples = plan, groups.view, device, samples
        dtype = DTYPES[settings.dtype]
        provider = LlavaMimoProvider(plan=plan, bf16=dtype is torch.bfloat16, seed=settings.seed)
        provider.adopt(groups)
        (self.model,) = provider.provide_distributed_model(
            default_config(distributed_optimizer=settings.distributed_optimizer), data_parallel_random_init=False
        )
        self._infra = provider.get_or_build_infra()
        self._modules = get_module_to_grid_tuple(self.model, self._infra)
        self._encoders = {module.name: model_of(module).family or "" for module in plan.modules}
        self._num_tokens = 0
        config = self.model.config
        config.no_sync_func = partial(multimodule_no_sync, module_to_grid_tuple=self._modules)
        config.finalize_model_grads_func = self._finalize
        self._communicator = build_communicator(self.model, self._infra)
        self._collection = build_pg_collection_for_schedule(self._infra)
        chosen = optimizer_config(
            optimizer=settings.optimizer,
            lr=settings.lr,
            dtype=dtype,
            distributed_optimizer=settings.distributed_optimizer,
        )
        self._optimizer = build_optimizer(self.model, groups, chosen)
        self._checks = Checks(self.model, groups, self._optimizer, self._reduce, device, every=check_every)

    def run(self, num_steps: int) -> Iterator[Step]:
        """Train, yielding after each step."""
        for step in range(num_steps):
            yield self.step(step)

    def step(self, step: int) -> Step:
        """One optimizer step over the global batch."""
        started = time.perf_counter()
        progress.at("training", step=step)
        self._checks.before_step(step, map(self._given, self._microbatches(step)))
        zero_grad_buffer_for_multimodule(self._modules)
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
        self._communicator.flush()
        progress.at("updating weights", step=step)
        self._checks.before_update(self._num_tokens)
        updated, grad_norm, _ = self._optimizer.step()
        loss = self._total(losses) / max(1, self._num_tokens)
        # Both numbers are the whole world's, so that all ranks stop at the same step.
        if not updated:
            raise ExecutorError(
                f"step {step}: gradients are not finite; no weight was changed; lower the learning rate"
            )
        if not (math.isfinite(grad_norm) and math.isfinite(loss)):
            found = f"loss {loss}, gradient norm {grad_norm}"
            raise ExecutorError(f"step {step}: not finite: {found}; the weights are spoilt, lower the learning rate")
        self._checks.after_update()
        return Step(step, loss, float(grad_norm), self._num_tokens, time.perf_counter() - started, memory_bytes())

    def _microbatches(self, step: int) -> Iterator[Microbatch]:
        for index in range(self.plan.batch.num_microbatches):
            progress.at("training", step=step, microbatch=index)
            yield self._samples.microbatch(step, index)

    def _given(self, drawn: Microbatch) -> tuple[dict[str, Any], NumItems, dict[str, Any]]:
        """A global microbatch, the rows of its samples, and what this rank's model is given of it."""
        batch = drawn.as_batch(self._encoders)
        return batch, drawn.num_items, batch_of_rank(self.plan, self.view, batch, drawn.num_items)

    def _forward(self, data_iterator: Iterator[Microbatch], model: PlannedMimoModel) -> tuple[Any, Callable[..., Any]]:
        """The schedule's forward step: one microbatch."""
        _, _, arguments = self._given(next(data_iterator))
        output, loss_mask = model(**arguments)
        return output, partial(summed_loss, loss_mask)

    def _finalize(self, *args: Any, **kwargs: Any) -> None:
        """The schedule's hook after the last microbatch."""
        self._num_tokens = finalize_model_grads_multimodule(
            *args, infra=self._infra, module_to_grid_tuple=self._modules, **kwargs
        )

    def _reduce(self, num_tokens: torch.Tensor) -> int:
        """Reduce and scale gradients that the checks have put in place."""
        return finalize_model_grads_multimodule(None, num_tokens, infra=self._infra, module_to_grid_tuple=self._modules)

    def _total(self, losses: list[torch.Tensor]) -> float:
        """The loss summed over all tokens of the global batch."""
        mine = sum(float(loss) for loss in losses) if counts_tokens(self.view) else 0.0
        total = torch.tensor([mine], dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        return float(total.item())


def summed_loss(loss_mask: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss summed over unmasked tokens, their number, and the sum to report; `output`: (samples, tokens)."""
    loss = (output.float() * loss_mask).sum()
    return loss, loss_mask.sum().to(torch.int), loss.detach()
