"""What checks.py runs on the ranks."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from executor.checks.consistency import Checks
from executor.commands.trainer import Trainer, TrainSettings
from executor.groups.groups import ProcessGroups
from executor.model.weights import shards_of
from executor.start.context import connect, started
from executor.training.synthetic_data import Synthetic
from planner import Plan
from tests.executor.jobs.jobs import TIMEOUT

_CALLS = ("before_step", "before_update", "after_update")


class Stopwatch:
    """The seconds that this rank spends inside the checks: by step, and of all steps by call.

    The ranks meet before each call, off the clock: a rank that waits there for others that still compute would wait in
    the optimizer's reductions if nothing were checked.
    """

    def __init__(self, checks: Checks) -> None:
        self.seconds: list[float] = []
        self.calls: dict[str, float] = {}
        for name in _CALLS:
            setattr(checks, name, self._timed(getattr(checks, name)))

    def _timed(self, call: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(call)
        def timed(*args: Any) -> None:
            dist.barrier()
            begun = time.perf_counter()
            call(*args)
            taken = time.perf_counter() - begun
            self.seconds[-1] += taken
            self.calls[call.__name__] = self.calls.get(call.__name__, 0.0) + taken

        return timed


def train(text: str, num_steps: int, every: int) -> dict[str, Any]:
    """Train. Gives the seconds of each step, those inside the checks, and the sizes of the global tensors by name."""
    plan = Plan.from_json(text)
    context = connect(TIMEOUT)
    with started(context, plan.digest, plan.world_size):
        groups = ProcessGroups(plan, context.rank, context.timeout)
        settings = TrainSettings(dtype="fp32", optimizer="adam", lr=1e-4, distributed_optimizer=False)
        trainer = Trainer(plan, groups, Synthetic(plan, 7), settings, context.device, check_every=every)
        stopwatch, steps = Stopwatch(trainer._checks), []
        for step in range(num_steps):
            stopwatch.seconds.append(0.0)
            steps.append(trainer.step(step).seconds)
        sizes = {shard.key: math.prod(shard.shape) for shard in shards_of(trainer.model)}
        return {"steps": steps, "inside": stopwatch.seconds, "calls": stopwatch.calls, "sizes": sizes}
