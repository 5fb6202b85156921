"""What would make a plan fit if a rank's memory is too small: each change is made, and the bytes are counted again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from ...base.axes import Axis
from ...base.frozen import frozen
from ...plan import Plan
from ..simulation.schedule import schedule_of
from ..timing.hardware import Hardware
from ..work.ops import GIB
from ..work.settings import Settings
from .memory import excess
from .peaks import RankMemory, peaks, rank_memory

_WORTH = 0.1 * GIB  # a change that saves less is not worth a line

Key = tuple[str, str]
"""A key of the spec, and the module that has it; "" if it is not a module's key."""

Written = dict[Key, str]
"""What to write into the spec: key -> value."""

_MAX_STAGES = 600  # stages that ranks hold, times modules that could change: seconds of trying


def remedies(plan: Plan, fullest: tuple[RankMemory, ...], hardware: Hardware, settings: Settings) -> tuple[str, ...]:
    """One line per change that helps a rank that is too full, the most helpful first; none if every rank fits.

    If no single change is enough, a line with the most helpful ones together comes before them. A change is enough if
    every rank of the module fits after it.

    Args:
        plan: the plan.
        fullest: of each module, the rank that needs most memory.
        hardware: the GPU.
        settings: what is assumed of the training software.
    """
    limit = hardware.memory_bytes
    found: list[str] = []
    full = [peak for peak in fullest if peak.total > limit]
    changed = sum(peak.rank in module.grid for peak in full for module in plan.modules)
    held = sum(len(unit.stages) for unit in schedule_of(plan).units) if full else 0
    if held * changed > _MAX_STAGES:
        return (f"what would help is not looked for: {changed} modules could change, among {held:,} stages on ranks",)
    for peak in fullest:
        if peak.total > limit:
            found += [line for line in _of_rank(plan, peak, limit, settings) if line not in found]
    return tuple(found)


@frozen
class _Try:
    """A changed plan.

    Attributes:
        written: what to write into the spec for it.
        plan: the plan after the change.
        fullest: the rank of the module that then needs most memory.
    """

    written: Written
    plan: Plan
    fullest: RankMemory


def _of_rank(plan: Plan, peak: RankMemory, limit: float, settings: Settings) -> list[str]:
    """The lines for the fullest rank of one module."""
    begun = _Try({}, plan, peak)
    tries = _better(begun, peak.rank, settings)
    together = begun
    while together.fullest.total > limit and (further := _better(together, peak.rank, settings)):
        together = further[0]
    if len(together.written) > 1:
        tries.insert(0, together)
    return [_line(one, peak, limit, settings) for one in tries]


def _better(begun: _Try, rank: int, settings: Settings) -> list[_Try]:
    """Every further change that is worth it, the best first."""
    found = []
    for key, value, plan in _changes(begun.plan, rank):
        fullest = next(peak for peak in peaks(plan, settings) if peak.module == begun.fullest.module)
        if begun.fullest.total - fullest.total > _WORTH:
            found.append(_Try(begun.written | {key: value}, plan, fullest))
    return sorted(found, key=lambda one: one.fullest.total)


def _line(one: _Try, peak: RankMemory, limit: float, settings: Settings) -> str:
    first, *others = (
        f"{key}: {value} on {module}" if module else f"{key}: {value}" for (key, module), value in one.written.items()
    )
    what = f"{first} with {' and '.join(others)}" if others else first
    saved = peak.memory.total - rank_memory(one.plan, peak.rank, settings).total
    rest = one.fullest.total - limit
    where = "" if one.fullest.rank == peak.rank else f" on rank {one.fullest.rank}"
    fits = "which fits" if rest <= 0 else f"still {excess(rest)} GiB too much{where}"
    return f"{what} saves {saved / GIB:.1f} GiB on rank {peak.rank}, {fits}"


def _changes(plan: Plan, rank: int) -> Iterator[tuple[Key, str, Plan]]:
    """The changes that could help a rank: (key, value to write, plan with it). The spec may have any of them."""
    for module in plan.modules:
        if rank not in module.grid or module.model is None:
            continue
        for how in ("selective", "full"):
            if module.recompute not in (how, "full"):
                yield ("recompute", module.name), how, _with(plan, module.name, recompute=how)
        # Language only: with its class token, the sequence of an encoder cannot be divided.
        tp, share = module.grid.size_of(Axis.TP), plan.batch_sizes.seq_length // module.grid.size_of(Axis.CP)
        if module.is_language and tp > 1 and not module.sequence_parallel and share % tp == 0:
            yield ("sequence_parallel", module.name), "true", _with(plan, module.name, sequence_parallel=True)
    if not plan.training.distributed_optimizer and plan.training.optimizer == "adam":
        training = attrs.evolve(plan.training, distributed_optimizer=True)
        yield ("training.distributed_optimizer", ""), "true", attrs.evolve(plan, training=training)
    sizes = plan.batch_sizes
    if all(samples % 2 == 0 for samples in plan.batch.samples_per_lane.values()):
        half = attrs.evolve(sizes, micro_size=sizes.micro_size // 2)
        yield ("batch.micro_size", ""), str(half.micro_size), attrs.evolve(plan, batch_sizes=half)


def _with(plan: Plan, name: str, **changes: Any) -> Plan:
    """The plan with other fields in one of its modules."""
    modules = tuple(attrs.evolve(one, **changes) if one.name == name else one for one in plan.modules)
    return attrs.evolve(plan, modules=modules)
