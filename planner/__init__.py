"""Compile the layout of heterogeneous multimodal training into an immutable, proven plan. Pure Python.

    from planner import load_spec, compile_spec
    plan = compile_spec(load_spec("spec.yaml"))
    plan.view(rank)

Each name is imported when it is first asked for, so that a command loads only what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base.axes import Axis
    from .base.errors import Fault, PlanError
    from .base.frozenmap import FrozenMap
    from .layout.ir import (
        Bridge,
        Direction,
        Group,
        GroupKind,
        Message,
        ModuleLayout,
        ModulePlan,
        ModuleStageInfo,
        RankRole,
        RankView,
        Strategy,
        Traffic,
        Transfer,
    )
    from .passes.compile import compile_spec
    from .plan import Plan
    from .spec.loader import load_spec, parse_spec
    from .spec.sections import (
        MIMO_LANGUAGE_MODULE_KEY,
        Batch,
        Cluster,
        Freeze,
        Model,
        Module,
        Output,
        Parallel,
        Training,
    )
    from .spec.spec import Spec, from_parallelism

__all__ = [
    "MIMO_LANGUAGE_MODULE_KEY",
    "Axis",
    "Batch",
    "Bridge",
    "Cluster",
    "Direction",
    "Fault",
    "Freeze",
    "FrozenMap",
    "Group",
    "GroupKind",
    "Message",
    "Model",
    "Module",
    "ModuleLayout",
    "ModulePlan",
    "ModuleStageInfo",
    "Output",
    "Parallel",
    "Plan",
    "PlanError",
    "RankRole",
    "RankView",
    "Spec",
    "Strategy",
    "Traffic",
    "Training",
    "Transfer",
    "compile_spec",
    "from_parallelism",
    "load_spec",
    "parse_spec",
]

_HOMES = {  # names that are not here: layout.ir
    "base.axes": ("Axis",),
    "base.errors": ("Fault", "PlanError"),
    "base.frozenmap": ("FrozenMap",),
    "passes.compile": ("compile_spec",),
    "plan": ("Plan",),
    "spec.loader": ("load_spec", "parse_spec"),
    "spec.sections": (
        "MIMO_LANGUAGE_MODULE_KEY", "Batch", "Cluster", "Freeze", "Model", "Module", "Output", "Parallel", "Training",
    ),
    "spec.spec": ("Spec", "from_parallelism"),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """The object of a public name (PEP 562); the next time Python finds it without asking."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{_HOME.get(name, 'layout.ir')}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
