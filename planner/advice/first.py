"""A first layout for models on a cluster: of several hundred usual ones, the fastest that runs and fits.

All modules stand on all ranks, or the encoders on a few ranks of their own. This is where a spec begins, and no search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from math import lcm

import attrs

from ..base.errors import Fault, PlanError
from ..cost.memory.peaks import peaks
from ..cost.predict import predict
from ..cost.prediction import Prediction
from ..cost.simulation.schedule import num_passes
from ..cost.timing.hardware import Hardware
from ..cost.work.settings import Settings
from ..limits.limits import limits_of
from ..limits.target import Target, planned_layers
from ..passes.compile import compile_spec
from ..plan import Plan
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY, Module, Parallel
from ..spec.spec import Spec
from .notes import MEMORY_ERROR

_POWERS = tuple(2**i for i in range(14))
_MAX_TP = 8
_SHARES = (4, 8, 16, 32)  # an encoder of its own has one rank of so many
_MAX_PASSES = 20_000


def first_layout(
    spec: Spec, hardware: Hardware, progress: Callable[[float], None] | None = None
) -> tuple[Spec, Prediction] | None:
    """The layout to begin with, and its prediction; None if none of those tried runs and fits.

    Args:
        spec: models, cluster and samples per step; its parallelism and its micro size are not looked at.
        hardware: the GPU.
        progress: told the share of the layouts that were tried.

    Raises:
        PlanError: no layout mends what is wrong, such as a sequence that is longer than the model allows.
    """
    limit = hardware.memory_bytes / (1 + MEMORY_ERROR)
    best: tuple[Spec, Prediction] | None = None
    candidates = list(_candidates(spec))
    errors: list[PlanError] = []
    for number, candidate in enumerate(candidates):
        if progress:
            progress(number / len(candidates))
        try:
            plan = compile_spec(candidate)
        except PlanError as error:
            errors.append(error)
            continue
        if plan.warnings or not _can_run(plan) or any(peak.total > limit for peak in peaks(plan, Settings())):
            continue
        found = predict(plan, hardware)
        if found.timeline and (best is None or found.step_seconds < best[1].step_seconds):
            best = candidate, found
    if len(errors) == len(candidates) and (shared := _shared(errors)):
        raise PlanError(shared)
    return best


def _shared(errors: list[PlanError]) -> list[Fault]:
    """The faults that all layouts have, so that no layout mends them."""
    every = [{(fault.code, fault.path) for fault in error.faults} for error in errors]
    return [fault for fault in errors[0].faults if all((fault.code, fault.path) in each for each in every)]


def _can_run(plan: Plan) -> bool:
    """Whether a plan runs, and does not take long to simulate."""
    return num_passes(plan) <= _MAX_PASSES and not limits_of(plan, Target(layers=planned_layers(plan)))


def _candidates(spec: Spec) -> Iterator[Spec]:
    """Layouts of a spec, those of few axes first. They may have faults."""
    cluster = spec.cluster
    world = cluster.nodes * cluster.gpus_per_node if cluster and cluster.nodes and cluster.gpus_per_node else 1
    per_node = cluster.gpus_per_node if cluster and cluster.gpus_per_node else 1
    encoders = [name for name in spec.modules if name != MIMO_LANGUAGE_MODULE_KEY]
    widths = [tp for tp in _POWERS if tp <= min(per_node, _MAX_TP)]
    for tp, pp in product(widths, _POWERS[:7]):
        for apart in (0, *_SHARES) if encoders else (0,):
            each = world // apart if apart else world
            rest = world - each * len(encoders) if apart else world
            if each < 1 or rest < 1 or rest % (tp * pp):
                continue
            sizes = {name: Parallel(dp=each) for name in encoders}
            language = Parallel(tp=tp, pp=pp, dp=rest // (tp * pp), sequence_parallel=tp > 1)
            sizes[MIMO_LANGUAGE_MODULE_KEY] = language
            for micro, recompute in product(_micro_sizes(spec, sizes), ("none", "full")):
                yield _laid_out(spec, sizes, micro, recompute, is_together=bool(encoders) and not apart)


def _micro_sizes(spec: Spec, sizes: dict[str, Parallel]) -> Iterator[int]:
    """Up to eight samples for each lane of the widest module."""
    lanes = lcm(*(one.dp or 1 for one in sizes.values()))
    for size in (lanes * power for power in _POWERS[:4]):
        if spec.batch.global_size % size == 0:
            yield size


def _laid_out(spec: Spec, sizes: dict[str, Parallel], micro: int, recompute: str, *, is_together: bool) -> Spec:
    def module(name: str, one: Module) -> Module:
        how = recompute if name == MIMO_LANGUAGE_MODULE_KEY else one.recompute
        return attrs.evolve(one, parallel=sizes[name], recompute=how)

    return attrs.evolve(
        spec,
        batch=attrs.evolve(spec.batch, micro_size=micro),
        modules={name: module(name, one) for name, one in spec.modules.items()},
        placement="colocated" if is_together else None,
        training=attrs.evolve(spec.training, distributed_optimizer=True),
    )
