"""What autograd keeps of every layer in a real forward pass. Results are plain data."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer.transformer_block import TransformerBlock

from executor.commands.trainer import Trainer, TrainSettings
from executor.training.synthetic_data import Synthetic
from planner import Plan
from tests.executor.jobs import jobs

Kept = tuple[tuple[int, ...], bool, int]  # the shape of a tensor, whether it is of floats, the bytes of its storage


def kept_tensors(text: str) -> dict[str, list[list[Kept]]]:
    """For each module of a rank, what each of its layers keeps of the first microbatch, every storage once."""
    plan = Plan.from_json(text)
    with jobs.ready(plan) as (context, groups):
        settings = TrainSettings(dtype="bf16", optimizer="sgd", lr=0.1, distributed_optimizer=False)
        trainer = Trainer(plan, groups, Synthetic(plan, seed=7), settings, context.device)
        weights = {parameter.untyped_storage().data_ptr() for parameter in trainer.model.parameters()}
        found: dict[str, list[list[Kept]]] = {}
        for name, module in jobs.modules_of(trainer.model):
            (block,) = [part for part in module.modules() if isinstance(part, TransformerBlock)]
            found[name] = [_watched(layer, weights) for layer in block.layers]
        trainer.step(0)
        return found


def _watched(layer: torch.nn.Module, seen: set[int]) -> list[Kept]:
    """What the first pass of a layer keeps, filled in when it runs, without the storages that are in `seen`."""
    found: list[Kept] = []
    open_hooks: list[Any] = []
    alive = []  # so that no other tensor gets the address of a storage

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            alive.append(tensor)
            found.append((tuple(tensor.shape), tensor.is_floating_point(), storage.nbytes()))
        return tensor

    def before(*_: Any) -> None:
        if not alive:
            open_hooks.append(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
            open_hooks[-1].__enter__()

    def after(*_: Any) -> None:
        if open_hooks:
            open_hooks.pop().__exit__()

    layer.register_forward_pre_hook(before)
    layer.register_forward_hook(after)
    return found
