"""Memory that does not fit, as faults: what `--strict` refuses, and what commands warn of."""

from __future__ import annotations

from ..base import codes
from ..base.errors import Fault, Faults
from ..cost.memory.memory import excess
from ..cost.memory.peaks import RankMemory, peaks
from ..cost.predict import predict
from ..cost.prediction import Prediction
from ..cost.timing.bounds import check_prediction
from ..cost.timing.hardware import Hardware
from ..cost.work.ops import GIB
from ..cost.work.settings import Settings
from ..plan import Plan


def memory_warnings(plan: Plan, hardware: Hardware, prediction: Prediction | None = None) -> tuple[Fault, ...]:
    """A warning for each rank that needs most memory of its modules and more than its GPU has, in source order.

    Args:
        plan: the plan.
        hardware: its GPU.
        prediction: the plan's prediction on that GPU, if there is one. Otherwise it is made if a rank is too full.

    Raises:
        PlanError: the plan is too large to be predicted.
    """
    if prediction is None:
        check_prediction(plan)
    above = _too_full(prediction.peaks if prediction else peaks(plan, Settings()), hardware)
    if not above:
        return ()
    tried = (prediction or predict(plan, hardware)).remedies
    remedy = tried[0] if tried else "use more ranks or a smaller model: nothing that `mimo predict` tries would do"
    faults, limit = Faults(plan.source), hardware.memory_gib.value
    for peak in above:
        rule = (
            f"memory of rank {peak.rank} ({peak.module} stage {peak.stage}) <= {limit:g} GiB of {hardware.name}, got "
            f"{peak.total / GIB:.1f}, {excess(peak.total - hardware.memory_bytes)} too much"
        )
        faults.add(codes.MEMORY, ("modules", peak.module), rule, remedy)
    return faults.warnings


def _too_full(fullest: tuple[RankMemory, ...], hardware: Hardware) -> list[RankMemory]:
    """The ranks that are too full; of modules that share one, the first speaks for it."""
    by_rank = {peak.rank: peak for peak in reversed(fullest)}
    return [peak for peak in by_rank.values() if peak.total > hardware.memory_bytes]
