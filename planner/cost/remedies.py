"""Where a rank does not fit: what would make it fit, computed by making each change and counting again."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ..axes import Axis
from ..ir import ModulePlan
from ..plan import Plan
from .hardware import Hardware
from .ranks import RankMemory, rank_memory
from .settings import Settings

_GIB = 2**30


def remedies(plan: Plan, peaks: tuple[RankMemory, ...], hardware: Hardware, settings: Settings) -> tuple[str, ...]:
    """One line per change that helps a rank that is too full, the most helpful first; none where all fit."""
    found: dict[str, float] = {}
    limit = hardware.memory_gib.value * _GIB
    for peak in peaks:
        over = peak.total - limit
        if over <= 0:
            continue
        for label, changed in _changes(plan, peak):
            saved = peak.memory.total - rank_memory(changed, peak.rank, settings).total
            if saved > 0:
                fits = "which fits" if saved >= over else f"{(over - saved) / _GIB:.1f} GiB too few"
                line = f"{label} saves {saved / _GIB:.1f} GiB on rank {peak.rank}, {fits}"
                found[line] = saved / over
    return tuple(sorted(found, key=lambda line: -found[line]))


def _changes(plan: Plan, peak: RankMemory) -> Iterator[tuple[str, Plan]]:
    """Changes to the modules on a rank, each as (what to write, the plan with it)."""
    for module in plan.modules:
        if peak.rank not in module.grid or module.model is None:
            continue
        for how in ("selective", "full"):
            if module.recompute not in (how, "full"):
                yield f"recompute: {how} on {module.name}", _with(plan, attrs.evolve(module, recompute=how))
        if module.grid.size_of(Axis.TP) > 1 and not module.sequence_parallel:
            yield f"sequence_parallel: true on {module.name}", _with(plan, attrs.evolve(module, sequence_parallel=True))
    if not plan.training.distributed_optimizer:
        training = attrs.evolve(plan.training, distributed_optimizer=True)
        yield "training.distributed_optimizer: true", attrs.evolve(plan, training=training)
    sizes = plan.batch_sizes
    if all(samples % 2 == 0 for samples in plan.batch.samples_per_lane.values()):
        half = attrs.evolve(sizes, micro_size=sizes.micro_size // 2)
        yield f"batch.micro_size: {half.micro_size}", attrs.evolve(plan, batch_sizes=half)


def _with(plan: Plan, module: ModulePlan) -> Plan:
    modules = tuple(module if one.name == module.name else one for one in plan.modules)
    return attrs.evolve(plan, modules=modules)
