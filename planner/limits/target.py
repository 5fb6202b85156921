"""What is to run a plan, and what each of its parts is called in messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.codes import Code
from ..base.frozen import frozen
from .layers import Layers

if TYPE_CHECKING:
    from ..plan import Plan  # imports attrs, which the executor's --help does not need

KNOWN_VERSION = "0.19"  # of megatron-core: the limits are known for this one
MEGATRON_CORE = f"megatron-core {KNOWN_VERSION}"
READY_MODELS = "ready-made models"  # those of the commands and of LlavaMimoProvider
FORWARD_PASS = "one forward pass per rank"  # noqa: S105  no password, but the executor's pass
SYNTHETIC_DATA = "synthetic data"

_COMPONENTS = {"1": MEGATRON_CORE, "2": READY_MODELS, "3": FORWARD_PASS, "4": SYNTHETIC_DATA}


def component_of(code: Code) -> str:
    """What cannot run a plan that has a fault of this R code."""
    return _COMPONENTS[code[1]]


@frozen(kw_only=True)
class Target:
    """What is to run a plan.

    Attributes:
        layers: whose transformer layers are built.
        own_specs: whether the modules are a user's own, so that the limits of the ready-made models do not apply.
        own_loop: whether data and optimizer are a user's own, and not those of `executor train`.
    """

    layers: Layers
    own_specs: bool = False
    own_loop: bool = False


def planned_layers(plan: Plan) -> Layers:
    """The layers that a plan is made for: Transformer Engine's if its spec names a GPU, else local ones."""
    return Layers.LOCAL if plan.gpu is None else Layers.TRANSFORMER_ENGINE
