"""Memory that does not fit, as faults: what `--strict` refuses, and what commands warn of."""

from __future__ import annotations

from ...base import codes
from ...base.errors import Fault, Faults
from ...plan import Plan
from ..timing.bounds import check_prediction
from ..timing.hardware import Hardware
from ..work.ops import GIB
from ..work.settings import Settings
from .memory import excess
from .peaks import RankMemory, peaks
from .remedies import remedies


def memory_warnings(plan: Plan, hardware: Hardware, largest: tuple[RankMemory, ...] | None = None) -> tuple[Fault, ...]:
    """A warning for each rank that needs most memory of its modules and more than its GPU has, in source order.

    Args:
        plan: the plan.
        hardware: its GPU.
        largest: the peaks of the plan, if they are known.

    Raises:
        PlanError: the plan is too large to be predicted.
    """
    faults, settings = Faults(plan.source), Settings()
    if largest is None:
        check_prediction(plan)
        largest = peaks(plan, settings)
    by_rank = {peak.rank: peak for peak in reversed(largest)}  # of modules that share the rank, the first speaks
    above = [peak for peak in by_rank.values() if peak.total > hardware.memory_bytes]
    if not above:
        return ()
    tried = remedies(plan, largest, hardware, settings)
    remedy = tried[0] if tried else "use more ranks or a smaller model: nothing that `mimo predict` tries would do"
    for peak in above:
        limit = hardware.memory_gib.value
        rule = (
            f"memory of rank {peak.rank} ({peak.module} stage {peak.stage}) <= {limit:g} GiB of {hardware.name}, got "
            f"{peak.total / GIB:.1f}, {excess(peak.total - hardware.memory_bytes)} too much"
        )
        faults.add(codes.MEMORY, ("modules", peak.module), rule, remedy)
    return faults.warnings
