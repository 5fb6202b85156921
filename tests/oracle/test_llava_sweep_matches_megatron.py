"""Plan and megatron-core agree on every layout that a published LLaVA recipe is tested with."""

from __future__ import annotations

import pytest

from planner import ModuleLayout

from .agreement import everything_agrees
from .layouts import SWEEP_GLOBAL_SIZE, planned, sweep_rows, sweep_spec
from .megatron import Megatron

_ROWS = sweep_rows()


def test_sweep_is_complete() -> None:
    assert len(_ROWS) == 15
    assert len({row["name"] for row in _ROWS}) == 15


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row["name"])
def test_everything_agrees(megatron: Megatron, row: dict[str, str]) -> None:
    plan = planned(sweep_spec(row))
    world_size, micro_size = int(row["world"]), int(row["micro_size"])
    assert plan.world_size == world_size
    assert plan.layout is ModuleLayout.NON_COLOCATED
    assert plan.batch.num_microbatches * micro_size == SWEEP_GLOBAL_SIZE
    compared = everything_agrees(megatron, plan)
    assert (compared.roles, compared.communicators) == (world_size, world_size)
    assert compared.stages == 1 + world_size
    assert compared.groups > compared.generated_groups > 0  # the difference is embedding groups
    # dp sizes divide in the whole sweep, 3 lanes of vision to 1 of language among them
    assert compared.bridges == world_size
