"""What start_up.py runs on the ranks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from statistics import median
from typing import Any
from unittest import mock

import torch.distributed as dist
from megatron.core.hyper_comm_grid import HyperCommGrid

import executor.commands.trainer
from benchmarks.stock_bridge import StockCommunicator
from executor.checks.groups import check_groups
from executor.commands.trainer import Trainer, TrainSettings
from executor.groups.groups import ProcessGroups
from executor.groups.infra import MimoModelInfra
from executor.library.loop import unwrap_mimo_model
from executor.start.context import Context, connect, started
from executor.training.synthetic_data import Synthetic
from planner import Axis, ModulePlan, Plan
from tests.executor.jobs.jobs import TIMEOUT

_STEPS = 8
_PAIRS = [["dp", "cp"], ["tp", "cp"], ["tp", "pp"]]
_DENSE = ["tp", "cp", "pp", "dp", *_PAIRS, ["tp", "dp", "cp"], ["tp", "cp", "dp", "pp"]]
_EXPERT = ["ep", "expt_tp", "expt_dp", ["expt_tp", "ep"], ["expt_tp", "ep", "pp"]]


def ours(text: str) -> tuple[float, int]:
    """The seconds that this rank takes for the plan's groups and their check, and the communicators that it opens."""
    plan = Plan.from_json(text)
    with _started(plan) as context:
        begun = time.perf_counter()
        groups = ProcessGroups(plan, context.rank, context.timeout)
        assert list(check_groups(groups, context.device)) == []
        return time.perf_counter() - begun, groups.num_opened


def theirs(text: str) -> float:
    """The seconds that this rank takes if every rank creates all ranks' groups."""
    plan = Plan.from_json(text)
    with _started(plan):
        begun = time.perf_counter()
        for module in plan.modules:
            _create_all(module)
        _create_bridges(plan)
        return time.perf_counter() - begun


@contextmanager
def _started(plan: Plan) -> Iterator[Context]:
    context = connect(TIMEOUT)
    with started(context, plan.digest, plan.world_size):
        dist.barrier()
        yield context
        dist.barrier()  # after its time: nobody leaves while others still need it


def _create_all(module: ModulePlan) -> None:
    """Create all 14 kinds of groups of one module, and language's embedding groups."""
    grid, size = module.grid, module.grid.size_of
    made = HyperCommGrid(list(grid.sizes), [axis.value for axis in grid.order], grid.rank_offset, "gloo")
    expert = [Axis.EXPT_TP, Axis.EP, Axis.EXPT_DP, Axis.PP]
    made.register_view("expert", [size(axis) for axis in expert], [axis.value for axis in expert], ["pp"])
    for dims in _DENSE:
        made.create_pg(dims)
    for dims in _EXPERT:
        made.create_pg(dims, view="expert")
    if module.is_language:
        for ranks in made.get_rank_enum("pp"):
            dist.new_group(ranks[:1], backend="gloo")
            dist.new_group(sorted({ranks[0], ranks[-1]}), backend="gloo")


def _create_bridges(plan: Plan) -> None:
    for bridge in plan.bridges:
        for kind in ("bridge_src", "bridge_dst", "bridge_p2p"):
            for ranks in plan.groups(bridge.name, kind):
                dist.new_group(list(ranks), backend="gloo")


def step(text: str, stock: bool) -> float:
    """The median seconds of a few steps of the trainer, with the executor's communicator or with the stock one."""
    plan = Plan.from_json(text)
    context = connect(TIMEOUT)
    with started(context, plan.digest, plan.world_size), _stock() if stock else nullcontext():
        groups = ProcessGroups(plan, context.rank, context.timeout)
        settings = TrainSettings(dtype="fp32", optimizer="sgd", lr=0.1, distributed_optimizer=False)
        trainer = Trainer(plan, groups, Synthetic(plan, 7), settings, context.device)
        assert isinstance(trainer._communicator, StockCommunicator) == stock
        first, *others = (step.seconds for step in trainer.run(_STEPS))
        del first  # buffers are made in it
        return median(others)


@contextmanager
def _stock() -> Iterator[None]:
    """While active, the trainer takes megatron-core's own communicator."""
    with mock.patch.object(executor.commands.trainer, "build_communicator", _stock_communicator):
        yield


def _stock_communicator(model: Any, infra: MimoModelInfra) -> StockCommunicator:
    return StockCommunicator(infra.plan, infra.module_to_grid_map, infra.groups, unwrap_mimo_model(model).config)
