"""Refuses, by name and before any collective, what the installed megatron-core cannot run. Imports nothing of it.

What cannot run is decided in planner/limits, where `mimo plan` asks as well. Only a machine knows which versions are
installed (versions.py) and whose layers it can build (layer_backend.py).
"""

from __future__ import annotations

from typing import Any

import attrs

from planner import Fault, Plan
from planner.base.errors import format_path
from planner.limits.layers import Layers
from planner.limits.limits import limits_of
from planner.limits.target import Target, component_of, planned_layers
from planner.limits.training import training_limits
from planner.spec.sections import Training

from ..errors import UnsupportedError
from .layer_backend import ask_for, choose_layers
from .versions import Versions, check_versions


def check_limits(plan: Plan, *, own_specs: bool = False, own_loop: bool = False) -> None:
    """Check that a plan can run on the layers of this machine.

    Args:
        own_specs: whether the modules are a user's own, so that the limits of the ready-made models do not apply.
        own_loop: whether data and optimizer are a user's own, so that those of `train` do not apply.

    Raises:
        UnsupportedError: the plan is beyond a limit, or a version is not known here; names every limit.
    """
    check_versions()
    found = limits_of(plan, Target(layers=choose_layers(), own_specs=own_specs, own_loop=own_loop))
    if found:
        lines = "\n".join([f"{described(fault)}\n    fix: {fault.remedy}" for fault in found])
        installed = Versions.installed().megatron_core
        raise UnsupportedError(f"this plan cannot run here (megatron-core {installed}):\n{lines}{_otherwise(plan)}")


def check_dtype(dtype: str) -> None:
    """Raise UnsupportedError for a dtype of a spec in which no plan can train."""
    for code, _, rule, remedy in training_limits(Training(dtype=dtype)):
        raise UnsupportedError(f"[{code}] {rule} [{component_of(code)}]\n    fix: {remedy}")


def refusal(plan: Plan, asked: Layers | None) -> str:
    """Why `train` would refuse a plan, in one line; empty if it would not.

    Args:
        asked: the layers that the command line asks for, if any.
    """
    try:
        ask_for(asked)
    except UnsupportedError as error:
        return str(error)
    found = limits_of(plan, Target(layers=choose_layers()))
    return "; ".join(f"{described(fault)}, fix: {fault.remedy}" for fault in found)


def described(fault: Fault) -> str:
    """A limit in one line: its place, code and rule. It is an error here, where `mimo plan` warns."""
    where = f"{fault.mark}: " if fault.mark else ""
    return f"{where}[{fault.code}] {format_path(fault.path)}: {fault.rule}"


def _otherwise(plan: Plan) -> str:
    """Why `mimo plan` may not have warned: it checks a plan against the layers that the spec's GPU stands for."""
    here, planned = choose_layers(), planned_layers(plan)
    if here is planned:
        return ""
    return f"\n`mimo plan` takes {planned.in_words} for this spec, and this machine builds {here.in_words}"


def with_training(plan: Plan, **changes: Any) -> Plan:
    """The plan with the training settings of a command line: those that are not None."""
    given = {name: value for name, value in changes.items() if value is not None}
    return attrs.evolve(plan, training=attrs.evolve(plan.training, **given)) if given else plan
