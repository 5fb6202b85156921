"""What a rule of this folder yields: one reason why a plan cannot run."""

from __future__ import annotations

from collections.abc import Iterator

from ..base.codes import Code
from ..base.errors import Path
from ..layout.ir import ModulePlan
from ..plan import Plan

Reason = tuple[Code, Path, str, str]  # code, the key concerned, the rule with its values, the remedy
Reasons = Iterator[Reason]


def encoders_of(plan: Plan) -> list[ModulePlan]:
    """All modules but language; `after_language` refuses those that are none."""
    return [module for module in plan.modules if not module.is_language]
