"""Faults that are planted while a rank runs. Each must be found: `check` or parity fails, or the ranks stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import attrs

import executor.bridge.endpoint
import executor.checks.groups
import executor.commands.trainer
import executor.training.gradients
from executor.groups.groups import ProcessGroups


@contextmanager
def planted(name: str, groups: ProcessGroups) -> Iterator[None]:
    """Plant the fault of this name, or none if the name is empty."""
    if not name:
        yield
        return
    with FAULTS[name](groups):
        yield


@contextmanager
def swapped_groups(groups: ProcessGroups) -> Iterator[None]:
    """Rank 0 takes language's dp group for its tp group, and its tp group for its dp group."""
    if groups.rank == 0:
        kinds = {"tp": groups.get("language", "dp"), "dp": groups.get("language", "tp")}
        groups._opened = tuple(
            (group, kinds.get(group.kind, opened) if group.owner == "language" else opened)
            for group, opened in groups._opened
        )
    yield


@contextmanager
def unscaled_module(groups: ProcessGroups) -> Iterator[None]:
    """The images' gradients are not divided by the number of tokens."""
    real = executor.training.gradients.scale_gradients

    def scale_gradients(pairs: list[tuple[Any, Any]], num_tokens: int) -> None:
        real([(module, grid) for module, grid in pairs if grid.module.name != "images"], num_tokens)

    with mock.patch.object(executor.training.gradients, "scale_gradients", scale_gradients):
        yield


@contextmanager
def shifted_slice(groups: ProcessGroups) -> Iterator[None]:
    """Every source lane of the bridge takes the samples of the lane after it."""
    view = groups.view
    if "images" in view.batch_slices:
        taken = view.batch_slices["images"]
        size = taken.stop - taken.start
        start = (taken.start + size) % groups.plan.batch_sizes.micro_size
        slices = type(view.batch_slices)(dict(view.batch_slices) | {"images": slice(start, start + size)})
        groups.view = attrs.evolve(view, batch_slices=slices)
    yield


@contextmanager
def doubled_gradient(groups: ProcessGroups) -> Iterator[None]:
    """Destinations hand back twice the gradient of random rows: its samples are right, its size is not."""
    real = executor.bridge.endpoint.Endpoint.gradient

    def gradient(self: executor.bridge.endpoint.Endpoint, value: Any) -> Any:
        found = real(self, value)
        return found if bool((value == value.round()).all()) else 2 * found

    with mock.patch.object(executor.bridge.endpoint.Endpoint, "gradient", gradient):
        yield


FAULTS = {
    "doubled_gradient": doubled_gradient,
    "swapped_groups": swapped_groups,
    "unscaled_module": unscaled_module,
    "shifted_slice": shifted_slice,
}
