"""megatron-core's schedule over any DAG of small modules: one linear layer per stage, no MimoModel.

What the communicator has to do does not depend on models: it serves chains of encoders, modules that feed several
others, and branches of unequal depth. One process alone computes the same sums.
"""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import attrs
import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel.schedules import forward_backward_pipelining_without_interleaving
from megatron.core.process_groups_config import MultiModuleProcessGroupCollection
from megatron.core.transformer.transformer_config import TransformerConfig

from executor.bridge.communicator import PipelineCommunicator, key_of
from executor.bridge.packed import SIZES
from executor.groups.grids import collection_of
from executor.groups.groups import ProcessGroups
from executor.start import device
from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, Plan
from tests.executor.jobs import preload  # noqa: F401
from tests.executor.jobs.bridge_jobs import world
from tests.executor.jobs.jobs import TIMEOUT


@attrs.frozen(eq=False)
class Sizes:
    """The sizes of a step.

    Attributes:
        tokens: the number of tokens of each sample of a microbatch.
        hidden: the width of every row.
        num_microbatches: the number of microbatches.
    """

    tokens: tuple[int, ...]
    hidden: int
    num_microbatches: int


def weight_of(module: str, stage: int, hidden: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, module)) * 100 + stage)
    return (torch.randn(hidden, hidden, generator=generator) / hidden**0.5).requires_grad_()


def data_of(module: str, microbatch: int, sizes: Sizes) -> list[torch.Tensor]:
    """The rows of each sample that a module adds to what it receives."""
    generator = torch.Generator().manual_seed(sum(map(ord, module)) * 1000 + microbatch)
    return [torch.randn(count, sizes.hidden, generator=generator) for count in sizes.tokens]


class Stage(torch.nn.Module):
    """The stage of this rank's only module, with the interface that the schedule expects of a model."""

    def __init__(self, groups: ProcessGroups, sizes: Sizes, config: TransformerConfig) -> None:
        super().__init__()
        (self.name,) = groups.view.role.modules
        self.config, self.sizes, self.view = config, sizes, groups.view
        self.stage = groups.view.stages[self.name].stage
        self.weight = torch.nn.Parameter(weight_of(self.name, self.stage, sizes.hidden).detach())
        self.received: dict[str, Any] = {}

    def set_input_tensor(self, received: Any) -> None:
        self.received = received[0] if isinstance(received, list) else received

    def forward(self, microbatch: int) -> Any:
        taken, role = self.view.batch_slices[self.name], self.view.role
        if role.is_first_stage(self.name):
            value = torch.cat(data_of(self.name, microbatch, self.sizes)[taken])
            value = value + sum(self.received.values()) if self.received else value
        else:
            value = self.received[self.name]
        result = torch.tanh(value @ self.weight)
        if self.name == MIMO_LANGUAGE_MODULE_KEY and role.is_last_stage(self.name):
            return result
        setattr(result, SIZES, list(self.sizes.tokens[taken]))
        return {self.name: result}


def gradients(text: str, tokens: list[int], hidden: int, num_microbatches: int) -> dict[str, Any]:
    """The loss of one step, and the gradient of this rank's weight, summed over lanes."""
    plan, sizes = Plan.from_json(text), Sizes(tuple(tokens), hidden, num_microbatches)
    with world() as context, device.ready():
        groups = ProcessGroups(plan, context.rank, TIMEOUT)
        model, communicator = _built(groups, sizes, context.device)
        losses = _scheduled(groups, model, communicator)
        communicator.flush()
        gradient = model.weight.grad
        assert gradient is not None
        dist.all_reduce(gradient, group=groups.get(model.name, "dp"))
        lane = groups.view.coords[model.name]
        allocated = [bridge._pool.num_allocated for bridge in (*communicator.outgoing, *communicator.incoming)]
        return {
            "module": model.name,
            "stage": model.stage,
            "lane": (lane[Axis.DP], lane[Axis.TP]),
            "gradient": gradient.numpy(),
            "loss": sum(float(loss) for loss in losses),
            "inputs": sorted(key_of(bridge) for bridge in communicator.incoming),
            "allocated": allocated,
        }


def forward_only(text: str, tokens: list[int], hidden: int, num_microbatches: int, without_grad: bool) -> str:
    """What was said, if anything, of forward passes without backward ones and of the step after them."""
    plan, sizes = Plan.from_json(text), Sizes(tuple(tokens), hidden, num_microbatches)
    with world() as context, device.ready():
        groups = ProcessGroups(plan, context.rank, timedelta(seconds=8))
        model, communicator = _built(groups, sizes, context.device)
        try:
            with torch.no_grad() if without_grad else nullcontext():
                _scheduled(groups, model, communicator, forward_only=True)
            _scheduled(groups, model, communicator)
        except RuntimeError as error:
            return str(error)
        return ""


def _built(groups: ProcessGroups, sizes: Sizes, where: torch.device) -> tuple[Stage, PipelineCommunicator]:
    config = TransformerConfig(
        num_layers=1,
        hidden_size=sizes.hidden,
        num_attention_heads=1,
        pipeline_dtype=torch.float32,
        variable_seq_lengths=True,
        calculate_per_token_loss=True,
        moe_token_dispatcher_type="alltoall",  # noqa: S106  no password
    )
    return Stage(groups, sizes, config), PipelineCommunicator(groups, config, where)


def _scheduled(
    groups: ProcessGroups, model: Stage, communicator: PipelineCommunicator, *, forward_only: bool = False
) -> Any:
    return forward_backward_pipelining_without_interleaving(
        forward_step_func=_step,
        data_iterator=iter(range(model.sizes.num_microbatches)),
        model=model,
        num_microbatches=model.sizes.num_microbatches,
        seq_length=1,
        micro_batch_size=1,
        p2p_communicator=communicator,
        pg_collection=_collection(groups),
        forward_only=forward_only,
    )


def _step(batches: Any, model: Stage) -> Any:
    output = model(next(batches))

    def loss(result: torch.Tensor) -> Any:
        total = (result**2).sum()
        return total, torch.tensor(result.shape[0], dtype=torch.int), total.detach()

    return output, loss


def _collection(groups: ProcessGroups) -> MultiModuleProcessGroupCollection:
    modules = list(groups.view.role.modules)
    language = MIMO_LANGUAGE_MODULE_KEY if MIMO_LANGUAGE_MODULE_KEY in modules else None
    return MultiModuleProcessGroupCollection({name: collection_of(name, groups) for name in modules}, language)


def alone(text: str, tokens: list[int], hidden: int, num_microbatches: int) -> dict[str, Any]:
    """The same sums in one process: the loss, and the gradient of each stage of each module."""
    plan, sizes = Plan.from_json(text), Sizes(tuple(tokens), hidden, num_microbatches)
    weights = {
        (module.name, stage): weight_of(module.name, stage, hidden)
        for module in plan.modules
        for stage in range(module.num_stages)
    }
    total = torch.zeros(())
    for microbatch in range(num_microbatches):
        values: dict[str, torch.Tensor] = {}

        def value_of(name: str, values: dict[str, torch.Tensor] = values, at: int = microbatch) -> torch.Tensor:
            if name not in values:
                value = torch.cat(data_of(name, at, sizes))
                for src, dst in plan.edges:
                    if dst == name:
                        value = value + value_of(src)
                for stage in range(plan.module(name).num_stages):
                    value = torch.tanh(value @ weights[name, stage])
                values[name] = value
            return values[name]

        total = total + (value_of(MIMO_LANGUAGE_MODULE_KEY) ** 2).sum()
    total.backward()
    return {
        "loss": float(total.detach()),
        "gradients": {key: weight.grad.numpy() for key, weight in weights.items() if weight.grad is not None},
    }
