"""Compile the layout of heterogeneous multimodal training into an immutable, proven plan. Pure Python.

from planner import load_spec, compile_spec
plan = compile_spec(load_spec("spec.yaml"))
plan.view(rank)
"""

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
from .spec.sections import MIMO_LANGUAGE_MODULE_KEY, Batch, Cluster, Freeze, Model, Module, Output, Parallel, Training
from .spec.spec import Spec

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
    "load_spec",
    "parse_spec",
]
