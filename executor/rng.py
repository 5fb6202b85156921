"""Random streams of a rank, for dropout. The ready models have none, and draw nothing.

megatron-core keeps one tracker for all modules of a process. On ranks that hold several modules, one module's draws
would follow the other's tp coord and order: dropout there would need a tracker per module.
"""

from __future__ import annotations

from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from .grids import collection_of
from .groups import ProcessGroups


def seed_streams(groups: ProcessGroups, seed: int) -> None:
    """Seed the tracker from the coords of the rank's first module; another stream for every module."""
    names = [module.name for module in groups.plan.modules]
    first = next(iter(groups.view.role.modules))
    collection = collection_of(first, groups)
    model_parallel_cuda_manual_seed(
        seed + 100_000 * names.index(first),
        tp_rank=collection.tp.rank(),
        ep_rank=collection.ep.rank(),
        etp_rank=collection.expt_tp.rank(),
        force_reset_rng=True,
    )
