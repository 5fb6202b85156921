"""What tests run on ranks. Results are plain data: numpy arrays, numbers, text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import preload  # noqa: F401

from executor.context import Context, connect, started
from executor.data import Synthetic
from executor.groups import ProcessGroups
from executor.megatron_limits import check_limits
from executor.reference import reference_of
from executor.train import Settings, Trainer
from executor.weights import slices_of
from planner import Plan

TIMEOUT = timedelta(seconds=60)


@contextmanager
def ready(plan: Plan) -> Iterator[tuple[Context, ProcessGroups]]:
    check_limits(plan)
    context = connect(TIMEOUT)
    with started(context, plan.digest, plan.world_size):
        yield context, ProcessGroups(plan, context.rank, context.timeout)


def train(text: str, options: dict[str, Any], *, reference: bool = False) -> dict[str, Any]:
    """Train; returns the steps' metrics and the rank's slices of the final weights."""
    original = Plan.from_json(text)
    plan = reference_of(original) if reference else original
    samples = Synthetic(original, seed=7, text_only=tuple(options.get("text_only", ())))
    with ready(plan) as (context, groups):
        settings = Settings(
            dtype=options.get("dtype", "fp32"),
            optimizer=options.get("optimizer", "sgd"),
            lr=options.get("lr", 0.1),
            distributed_optimizer=options.get("distributed_optimizer", False),
        )
        trainer = Trainer(plan, groups, samples, settings, context.device)
        steps = [(step.loss, step.grad_norm, step.num_tokens) for step in trainer.run(options.get("steps", 3))]
        parts = [
            (part.key, part.shape, part.place, part.data.detach().float().numpy().copy())
            for part in slices_of(trainer.model)
        ]
        return {"steps": steps, "parts": parts}


def train_reference(text: str, options: dict[str, Any]) -> dict[str, Any]:
    return train(text, options, reference=True)
