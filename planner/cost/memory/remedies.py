"""What would make a plan fit if a rank's memory is too small.

Each change is made, its bytes are counted, and the step is timed: people want what fits and is the fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from math import inf, isfinite
from typing import Any

import attrs

from ...base.axes import Axis
from ...base.frozen import frozen
from ...plan import Plan
from ..simulation.schedule import num_passes, schedule_of
from ..simulation.words import duration
from ..work.ops import GIB
from ..work.settings import Settings
from .memory import excess
from .peaks import RankMemory, peaks, rank_memory

_WORTH = 0.1 * GIB  # a change that saves less is not worth a line

Key = tuple[str, str]
"""A key of the spec, and the module that has it; "" if it is not a module's key."""

Written = dict[Key, str]
"""What to write into the spec: key -> value."""

_POWERS = (2, 4, 8, 16)  # by which microbatches are divided
_MAX_STAGES = 600  # stages that ranks hold, times modules that could change: seconds of trying
_MAX_PASSES = 10_000  # of a step that is simulated for the price of a change: a tenth of a second
_MAX_PRICED = 12  # pairs of changes, of which those that come closest to the limit are priced

Price = Callable[[Plan], float]
"""Seconds of a step of a plan; infinite if it never ends."""


def remedies(
    plan: Plan, fullest: tuple[RankMemory, ...], limit: float, settings: Settings, price: Price
) -> tuple[str, ...]:
    """One line per change that helps a rank that is too full; none if every rank fits.

    What is enough comes first, the shortest step before the others, and then what is not, by the memory that it saves.
    If no single change is enough, the two of the shortest step together come first, or as many as it takes. A change is
    enough if every rank of the module fits after it.

    Args:
        plan: the plan.
        fullest: of each module, the rank that needs most memory.
        limit: the bytes that a rank may need.
        settings: what is assumed of the training software.
        price: the seconds of a step of a changed plan.
    """
    found: list[str] = []
    full = [peak for peak in fullest if peak.total > limit]
    changed = sum(peak.rank in module.grid for peak in full for module in plan.modules)
    held = sum(len(unit.stages) for unit in schedule_of(plan).units) if full else 0
    if held * changed > _MAX_STAGES:
        return (f"what would help is not looked for: {changed} modules could change, among {held:,} stages on ranks",)
    for peak in full:
        found += [line for line in _of_rank(plan, peak, limit, settings, price) if line not in found]
    return tuple(found)


@frozen
class _Try:
    """A changed plan.

    Attributes:
        written: what to write into the spec for it.
        plan: the plan after the change.
        fullest: the rank of the module that then needs most memory.
        seconds: how long its step takes; infinite if nobody asked.
    """

    written: Written
    plan: Plan
    fullest: RankMemory
    seconds: float = inf


def _of_rank(plan: Plan, peak: RankMemory, limit: float, settings: Settings, price: Price) -> list[str]:
    """The lines for the fullest rank of one module."""
    singles = _better(_Try({}, plan, peak), peak.rank, settings)
    enough, rest = _priced([one for one in singles if one.fullest.total <= limit], price), list(singles)
    if not enough and singles:
        pairs = [two for one in singles for two in _better(one, peak.rank, settings) if len(two.written) == 2]
        fitting = {tuple(sorted(two.written.items())): two for two in pairs if two.fullest.total <= limit}
        closest = sorted(fitting.values(), key=lambda two: -two.fullest.total)[:_MAX_PRICED]
        enough = _priced(closest, price)[:1] or _priced([_greedy(singles[0], peak.rank, limit, settings)], price)
        enough = [one for one in enough if len(one.written) > 1]
    rest = [one for one in rest if one.fullest.total > limit]
    shown: dict[tuple[Key, ...], _Try] = {}  # the best value of each key
    for one in (*enough, *rest):
        shown.setdefault(tuple(one.written), one)
    return [_line(one, peak, limit, settings) for one in shown.values()]


def _priced(tries: list[_Try], price: Price) -> list[_Try]:
    """The tries with their prices, the shortest step first; as they are if a simulation would take long."""
    if any(num_passes(one.plan) > _MAX_PASSES for one in tries):
        return tries
    return sorted((attrs.evolve(one, seconds=price(one.plan)) for one in tries), key=lambda one: one.seconds)


def _greedy(begun: _Try, rank: int, limit: float, settings: Settings) -> _Try:
    """The try with what saves most added to it, until it fits or nothing helps any more."""
    while begun.fullest.total > limit and (further := _better(begun, rank, settings)):
        begun = further[0]
    return begun


def _better(begun: _Try, rank: int, settings: Settings) -> list[_Try]:
    """Every further change that is worth it, what saves most first."""
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
    price = f"; a step takes {duration(one.seconds)}" if isfinite(one.seconds) else ""
    return f"{what} saves {saved / GIB:.1f} GiB on rank {peak.rank}, {fits}{price}"


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
    for halved in takewhile(lambda by: all(n % by == 0 for n in plan.batch.samples_per_lane.values()), _POWERS):
        smaller = attrs.evolve(sizes, micro_size=sizes.micro_size // halved)
        yield ("batch.micro_size", ""), str(smaller.micro_size), attrs.evolve(plan, batch_sizes=smaller)


def _with(plan: Plan, name: str, **changes: Any) -> Plan:
    """The plan with other fields in one of its modules."""
    modules = tuple(attrs.evolve(one, **changes) if one.name == name else one for one in plan.modules)
    return attrs.evolve(plan, modules=modules)
