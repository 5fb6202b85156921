"""What a module cannot be beside the others: after language, without a mark, or fed by several."""

from __future__ import annotations

from ..base import codes
from ..base.errors import Path
from ..layout.ir import ModulePlan
from ..plan import Plan
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY
from .rule import Reasons


def role_limits(plan: Plan, module: ModulePlan) -> Reasons:
    """The reasons why an encoder's edges, or what it hands on, cannot run."""
    path: Path = ("modules", module.name)
    outgoing = [dst for src, dst in plan.edges if src == module.name]
    incoming = [src for src, dst in plan.edges if dst == module.name]
    if not outgoing:
        rule = f"MimoModel ends with language; {module.name} comes after it"
        yield codes.AFTER_LANGUAGE, path, rule, "leave the module out"
        return
    if outgoing != [MIMO_LANGUAGE_MODULE_KEY]:
        rule = f"ready-made encoders feed language, and take no other module's output; {module.name} feeds {outgoing}"
        yield codes.FED_ENCODER, path, rule, "let the module feed only language, or give specs of your own"
    if len(incoming) > 1:
        rule = f"an encoder takes one module's output, as its hidden_states; {module.name} takes {incoming}"
        yield codes.SEVERAL_INPUTS, path, rule, "let only one of them feed it"
    if MIMO_LANGUAGE_MODULE_KEY not in outgoing:
        return
    if module.special_token_id is None:
        rule = "MimoModel places a module's output at its special_token_id; the spec has none"
        yield codes.NO_SPECIAL_TOKEN, path, rule, "add special_token_id"
    if module.output.tensor_dims != 2:
        rule = f"MimoModel's submodules hand on (tokens, hidden): tensor_dims = 2, got {module.output.tensor_dims}"
        at = (*path, "output", "tensor_dims")
        yield codes.OUTPUT_DIMS, at, rule, "remove tensor_dims and batch_dim, or write `output: {tensor_dims: 2}`"
