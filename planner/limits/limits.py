"""Every reason why a plan cannot run on a target. Only this file knows all rules."""

from __future__ import annotations

from ..base.errors import Fault, Faults
from ..plan import Plan
from .modules import module_limits, projector_limits, unsized_limits
from .roles import role_limits
from .rule import Reasons
from .samples import sample_limits
from .shared_ranks import pass_limits
from .target import READY_MODELS, Target, component_of
from .training import frozen_limits, training_limits


def limits_of(plan: Plan, target: Target) -> tuple[Fault, ...]:
    """Everything for which a target refuses a plan, in source order; each names what cannot run it.

    A plan that was compiled from a file says where. Without places, the order is that of modules, then of edges.
    """
    faults = Faults(plan.source)
    for code, path, rule, remedy in _reasons(plan, target):
        component = component_of(code)
        if not (target.own_specs and component == READY_MODELS):
            faults.add(code, path, f"{rule} [{component}]", remedy)
    return faults.warnings


def _reasons(plan: Plan, target: Target) -> Reasons:
    for module in plan.modules:
        yield from module_limits(module, target.layers)
        if not module.is_language:
            yield from role_limits(plan, module)
    yield from unsized_limits(plan)
    yield from projector_limits(plan)
    yield from pass_limits(plan)
    if not target.own_loop:
        yield from training_limits(plan.training)
        yield from frozen_limits(plan)
        yield from sample_limits(plan)
