"""What the tests of random streams run on ranks."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

import executor.model.model
from executor.commands.trainer import Trainer, TrainSettings
from executor.model.rng import Streams, seed_streams
from executor.training.synthetic_data import Synthetic
from planner import Plan
from tests.executor.jobs.jobs import ready


def draws(text: str, seed: int) -> dict[str, tuple[list[float], list[float]]]:
    """What each module draws from its default stream and in megatron-core's fork, as modules take turns."""
    with ready(Plan.from_json(text)) as (_, groups):
        seed_streams(groups, seed)
        streams = Streams(groups.view, seed)
        found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in groups.view.role.modules}
        for _ in range(2):
            for name, (default, divided) in found.items():
                with streams.of(name), streams.of(name):
                    default.extend(torch.rand(4).tolist())
                    with get_cuda_rng_tracker().fork():
                        divided.extend(torch.rand(4).tolist())
                torch.rand(7)  # what others draw in between changes nothing
        return found


def train_with_dropout(text: str, options: dict[str, Any]) -> dict[str, Any]:
    """The losses of two steps with dropout, and the masks that every module drew, by kind."""
    plan = Plan.from_json(text)
    with ready(plan) as (context, groups), _dropout(), recorded_masks() as masks:
        settings = TrainSettings(
            dtype="fp32", optimizer="sgd", lr=0.1, distributed_optimizer=False, seed=options.get("seed", 1)
        )
        samples = Synthetic(plan, seed=7, text_only=tuple(options.get("text_only", ())))
        trainer = Trainer(plan, groups, samples, settings, context.device)
        steps = [(step.loss, step.grad_norm) for step in trainer.run(2)]
    return {"steps": steps, "masks": masks}


@contextlib.contextmanager
def _dropout() -> Iterator[None]:
    """Give the ready-made models dropout in hidden states and attention."""
    real = executor.model.model.transformer_config

    def config(*args: Any) -> Any:
        made = real(*args)
        made.hidden_dropout = made.attention_dropout = 0.25
        return made

    with mock.patch.object(executor.model.model, "transformer_config", config):
        yield


@contextlib.contextmanager
def recorded_masks() -> Iterator[dict[str, list[str]]]:
    """The digests of all masks, by module and kind. Language is 32 wide here, and images are 16 wide."""
    found: dict[str, list[str]] = {}

    def dropout(tensor: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        mask = torch.dropout(torch.ones_like(tensor), p, training)
        wide = tensor.shape[-1] == 32
        name = ("language " if wide else "images ") + ("attention" if tensor.ndim == 4 else "hidden")
        found.setdefault(name, []).append(hashlib.sha256((mask > 0).numpy().tobytes()).hexdigest()[:16])
        return tensor * mask

    with mock.patch.object(torch.nn.functional, "dropout", dropout):
        yield found
