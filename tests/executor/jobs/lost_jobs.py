"""What the tests of lost ranks run on ranks."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from executor.groups.groups import ProcessGroups
from executor.start.context import connect, started
from executor.start.lost_ranks import describe, is_lost_rank
from planner import Plan

SHORT = timedelta(seconds=2)


def lose_rank_1(text: str, how: str) -> list[Any]:
    """Whether rank 0 knows that the other rank is lost, and what it says."""
    plan = Plan.from_json(text)
    context = connect(SHORT)
    with started(context, plan.digest, plan.world_size):
        dist.barrier()
        try:
            if context.rank == 0:
                waits(plan, how)
        except Exception as error:  # the test asks which one it was
            told = [is_lost_rank(error), describe(error, 0, SHORT)]
            dist.destroy_process_group = lambda: None  # type: ignore[assignment]  # it would wait for the lost rank
            return told
        if how != "dies":
            time.sleep(2 * SHORT.total_seconds())
        os._exit(0)


def waits(plan: Plan, how: str) -> None:
    """What rank 0 does together with the other rank."""
    if how == "skips a group":
        ProcessGroups(plan, 0, SHORT)
    time.sleep(0.2)
    dist.all_reduce(torch.ones(4))
