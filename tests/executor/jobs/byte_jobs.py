"""A record of every operation between ranks in one real step, with its bytes. Results are plain data.

Operations are recorded in torch's ProcessGroup, where all of them meet. The functions of `torch.distributed` above it
would not do, since megatron-core binds them under several names.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from executor.commands.trainer import Trainer, TrainSettings
from executor.training.synthetic_data import Synthetic
from planner import Plan
from tests.executor.jobs import jobs

# For each method that starts an operation: its name, and the index of the argument that holds the whole buffer.
WHOLE = {
    "allreduce": ("all-reduce", 0),
    "allreduce_coalesced": ("all-reduce", 0),
    "all_gather_single": ("all-gather", 0),
    "all_gather_single_coalesced": ("all-gather", 0),
    "_allgather_base": ("all-gather", 0),
    "allgather": ("all-gather", 0),
    "allgather_into_tensor_coalesced": ("all-gather", 0),
    "reduce_scatter_single": ("reduce-scatter", 1),
    "reduce_scatter_single_coalesced": ("reduce-scatter", 1),
    "_reduce_scatter_base": ("reduce-scatter", 1),
    "reduce_scatter": ("reduce-scatter", 1),
    "reduce_scatter_tensor_coalesced": ("reduce-scatter", 1),
    "all_to_all_single": ("all-to-all", 1),
    "alltoall_base": ("all-to-all", 1),
    "alltoall": ("all-to-all", 1),
    "broadcast": ("broadcast", 0),
    "send": ("send", 0),
}
UNEXPECTED = ("allgather_coalesced", "reduce", "gather", "gather_single", "gather_into_tensor", "scatter")

Key = tuple[str, str, str]  # the names of the communicator's groups, the operation, the dtype
Recorded = dict[Key, dict[int, int]]  # number of operations, by the bytes of the whole buffer


def recorded_step(text: str) -> dict[str, Any]:
    """What one rank does in one step, by these keys.

    - operations: the operations, as Recorded.
    - sizes: the number of ranks of each communicator.
    - names: the communicator of each group.
    - padding: the elements by which the gradient buffers of each module are longer than its parameters.
    """
    plan = Plan.from_json(text)
    counts: dict[Key, Counter[int]] = {}
    with jobs.ready(plan) as (context, groups), ExitStack() as stack:
        training = plan.training
        settings = TrainSettings(
            dtype=training.dtype,
            optimizer=training.optimizer,
            lr=training.lr,
            distributed_optimizer=training.distributed_optimizer,
        )
        trainer = Trainer(plan, groups, Synthetic(plan, seed=7), settings, context.device)
        users: dict[str, list[str]] = {}
        sizes: dict[str, int] = {}
        opened = {}
        for group, handle in groups:
            users.setdefault(handle.group_name, []).append(f"{group.owner}:{group.kind}")
            opened[handle.group_name] = handle
        names = {name: "+".join(sorted(of)) for name, of in users.items()}
        for name, handle in opened.items():
            sizes[names[name]] = handle.size()

        def recorded(method: str, real: Any) -> Any:
            def call(self: dist.ProcessGroup, *args: Any, **kwargs: Any) -> Any:
                operation, place = WHOLE[method]
                tensors = flat(args[place])
                key = names.get(self.group_name, "world"), operation, str(tensors[0].dtype).removeprefix("torch.")
                counts.setdefault(key, Counter())[sum(t.numel() * t.element_size() for t in tensors)] += 1
                return real(self, *args, **kwargs)

            return call

        def unexpected(method: str) -> Any:
            def call(*_: Any, **__: Any) -> Any:
                raise AssertionError(f"{method} is not recorded: add it")

            return call

        for method in filter(partial(hasattr, dist.ProcessGroup), WHOLE):  # the names depend on the version of torch
            real = getattr(dist.ProcessGroup, method)
            stack.enter_context(mock.patch.object(dist.ProcessGroup, method, recorded(method, real)))
        for method in filter(partial(hasattr, dist.ProcessGroup), UNEXPECTED):
            stack.enter_context(mock.patch.object(dist.ProcessGroup, method, unexpected(method)))
        trainer.step(0)
        return {
            "operations": {key: dict(found) for key, found in counts.items()},
            "sizes": sizes,
            "names": {user: names[name] for name, of in users.items() for user in of},
            "padding": {name: padding(module) for name, module in jobs.modules_of(trainer.model)},
        }


def flat(value: Any) -> list[torch.Tensor]:
    """The tensors in an argument, however deep in lists they are."""
    return [value] if isinstance(value, torch.Tensor) else [tensor for each in value for tensor in flat(each)]


def padding(module: Any) -> int:
    """The number of elements in a module's gradient buffers that belong to no parameter."""
    return sum(
        buffer.grad_data.numel() - sum(parameter.numel() for parameter in buffer.params) for buffer in module.buffers
    )
