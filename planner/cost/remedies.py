"""Where a rank does not fit: what would make it fit, computed by making each change and counting again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import attrs

from ..axes import Axis
from ..plan import Plan
from .hardware import Hardware
from .ranks import RankMemory, rank_memory
from .settings import Settings

_GIB = 2**30
_WORTH = 0.1 * _GIB  # what saves less is not worth a line

Change = Callable[[Plan], Plan]


def remedies(plan: Plan, peaks: tuple[RankMemory, ...], hardware: Hardware, settings: Settings) -> tuple[str, ...]:
    """One line per change that helps a rank that is too full, the most helpful first; none where all fit.

    Where no single change is enough, the pair that saves most comes before them.
    """
    found: list[str] = []
    for peak in peaks:
        over = peak.total - hardware.memory_gib.value * _GIB
        if over > 0:
            found += [line for line in _of_rank(plan, peak, over, settings) if line not in found]
    return tuple(found)


def _of_rank(plan: Plan, peak: RankMemory, over: float, settings: Settings) -> list[str]:
    """What helps one rank that is `over` bytes too full."""

    def saved(changed: Plan) -> float:
        return peak.memory.total - rank_memory(changed, peak.rank, settings).total

    changes = {label: change for label, change in _changes(plan, peak) if saved(change(plan)) > _WORTH}
    tries = {label: saved(change(plan)) for label, change in changes.items()}
    if tries and max(tries.values()) < over:
        pairs = {
            f"{one} with {other}": saved(changes[other](changes[one](plan)))
            for one, other in combinations(changes, 2)
            if not (one.startswith("recompute") and one.rpartition(" ")[2] == other.rpartition(" ")[2])
        }
        if pairs:
            best = max(pairs, key=lambda label: pairs[label])
            tries[best] = pairs[best]
    lines = []
    for label in sorted(tries, key=lambda label: -tries[label]):
        rest = (over - tries[label]) / _GIB
        fits = "which fits" if rest <= 0 else f"still {rest:.1f} GiB too much"
        lines.append(f"{label} saves {tries[label] / _GIB:.1f} GiB on rank {peak.rank}, {fits}")
    return lines


def _changes(plan: Plan, peak: RankMemory) -> Iterator[tuple[str, Change]]:
    """Changes to the modules on a rank, each as (what to write, what makes it)."""
    for module in plan.modules:
        if peak.rank not in module.grid or module.model is None:
            continue
        for how in ("selective", "full"):
            if module.recompute not in (how, "full"):
                yield f"recompute: {how} on {module.name}", _of_module(module.name, recompute=how)
        if module.grid.size_of(Axis.TP) > 1 and not module.sequence_parallel:
            yield f"sequence_parallel: true on {module.name}", _of_module(module.name, sequence_parallel=True)
    if not plan.training.distributed_optimizer:
        training = attrs.evolve(plan.training, distributed_optimizer=True)
        yield "training.distributed_optimizer: true", lambda plan: attrs.evolve(plan, training=training)
    sizes = plan.batch_sizes
    if all(samples % 2 == 0 for samples in plan.batch.samples_per_lane.values()):
        half = attrs.evolve(sizes, micro_size=sizes.micro_size // 2)
        yield f"batch.micro_size: {half.micro_size}", lambda plan: attrs.evolve(plan, batch_sizes=half)


def _of_module(name: str, **changes: Any) -> Change:
    def change(plan: Plan) -> Plan:
        return attrs.evolve(
            plan, modules=tuple(attrs.evolve(one, **changes) if one.name == name else one for one in plan.modules)
        )

    return change
