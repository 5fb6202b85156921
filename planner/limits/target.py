"""What is to run a plan, and what each of its parts is called in messages."""

from __future__ import annotations

from enum import StrEnum

from ..base.codes import Code
from ..base.frozen import frozen
from ..plan import Plan

KNOWN_VERSION = "0.19"  # of megatron-core: the limits are known for this one
MEGATRON_CORE = f"megatron-core {KNOWN_VERSION}"
READY_MODELS = "ready-made models"  # those of the commands and of LlavaMimoProvider
FORWARD_PASS = "one forward pass per rank"  # noqa: S105  no password, but the executor's pass
SYNTHETIC_DATA = "synthetic data"

_COMPONENTS = {"1": MEGATRON_CORE, "2": READY_MODELS, "3": FORWARD_PASS, "4": SYNTHETIC_DATA}


def component_of(code: Code) -> str:
    """What cannot run a plan that has a fault of this R code."""
    return _COMPONENTS[code[1]]


class Layers(StrEnum):
    """Whose transformer layers are built. Only Transformer Engine's attention runs with cp > 1, and only on a GPU."""

    LOCAL = "local"
    TRANSFORMER_ENGINE = "te"

    @property
    def in_words(self) -> str:
        """`local layers`, as messages call them."""
        return "local layers" if self is Layers.LOCAL else "Transformer Engine's layers"


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
