"""Compares a layout's training with the one-rank reference of the same plan."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np

from planner import Plan
from tests.executor.jobs import ranks


@attrs.frozen
class Parity:
    """The largest differences between a layout and its reference.

    The smallest difference of two float32 weights, 1.2e-7 for a weight of 1, counts as none.

    Attributes:
        loss: relative difference of the losses.
        grad_norm: relative difference of the norms of gradients.
        weights: absolute difference of the weights.
    """

    loss: float
    grad_norm: float
    weights: float

    def check(self) -> None:
        """Assert the bounds that every layout must keep in fp32 with SGD."""
        assert self.loss <= 1e-6, self
        assert self.grad_norm <= 1e-6, self
        assert self.weights <= 1e-7, self


def measure(plan: Plan, **options: Any) -> Parity:
    """Train the plan, and its reference without a distributed optimizer, and compare them.

    Replicas must be equal bit for bit, and all parameters must be there.
    """
    text = plan.to_json()
    results = ranks.run(plan.world_size, "jobs:train", text, options)
    (expected,) = ranks.run(1, "jobs:train_reference", text, options | {"fault": "", "distributed_optimizer": False})
    assert all(result["steps"] == results[0]["steps"] for result in results), "ranks report different steps"
    found, wanted = assemble([result["parts"] for result in results]), assemble([expected["parts"]])
    assert found.keys() == wanted.keys()
    pairs = list(zip(results[0]["steps"], expected["steps"], strict=True))
    assert all(got[2] == want[2] for got, want in pairs), "token counts differ"
    return Parity(
        loss=max(abs(got[0] - want[0]) / abs(want[0]) for got, want in pairs),
        grad_norm=max(abs(got[1] - want[1]) / max(abs(want[1]), 1e-30) for got, want in pairs),
        weights=max(_difference(found[key], wanted[key]) for key in wanted),
    )


def _difference(found: np.ndarray, wanted: np.ndarray) -> float:
    if not np.isfinite(found).all():
        return math.inf
    difference = np.abs(found - wanted)
    return float(difference[difference > np.spacing(np.abs(wanted))].max(initial=0.0))


def assemble(parts_of_ranks: list[list[tuple[Any, ...]]]) -> dict[str, np.ndarray]:
    """Global tensors, put together from the slices of all ranks. Replicas must be equal bit for bit."""
    tensors: dict[str, np.ndarray] = {}
    for parts in parts_of_ranks:
        for key, shape, place, data in parts:
            tensor = tensors.setdefault(key, np.full(shape, np.nan, dtype=np.float32))
            known = ~np.isnan(tensor[place])
            assert np.array_equal(tensor[place][known], data[known]), f"replicas of {key} differ"
            tensor[place] = data
    missing = [key for key, tensor in tensors.items() if np.isnan(tensor).any()]
    assert not missing, f"no rank has all of {missing}"
    return tensors
