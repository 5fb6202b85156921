"""Law: autograd keeps of a real layer what the prediction counts, every byte per token, on every rank.

Layers are megatron-core's local ones, in bf16, with norms that one kernel computes: LayerNorm, since torch's RMSNorm
takes several on a CPU. Each by a rule of its own, this leaves out integers and masks; numbers per token, expert and
head, which no hidden size makes larger (statistics of norms, weights of experts); and tables of rotary positions, which
are the same for all samples. There are no grouped queries: local attention, unlike flash attention, repeats keys and
values for every head.
"""

from __future__ import annotations

from typing import Any

import pytest

from planner import Freeze, Plan
from planner.cost.memory.memory import token_activations
from planner.cost.work.layers import shape_of
from planner.cost.work.tokens import tokens_of
from tests.executor.jobs import ranks, specs

FEW = 2  # experts of a token: numbers per token and expert are at most as many
FROZEN = {"language": Freeze(encoder=True, projection=True)}
SP = {"tp": 2, "sequence_parallel": True}


def model(**changes: Any) -> dict[str, Any]:
    plain = {"normalization": "LayerNorm", "gated_linear_unit": False, "activation": "gelu"}
    return {"language": specs.language(**(plain | changes)), "images": specs.vision(activation="gelu")}


GELU = model(add_bias_linear=True)
GATED = model(gated_linear_unit=True, activation="silu")
WIDE = model(kv_channels=16)  # queries twice as wide as the residual stream
EXPERTS = model(num_moe_experts=4, moe_router_topk=FEW, gated_linear_unit=True, activation="silu")


def tiny_plan(language: dict[str, Any], models: dict[str, Any], **changes: Any) -> Plan:
    return specs.plan(language, {}, fixed=True, models=models, **changes)


PLANS = {
    "gelu": tiny_plan({}, GELU),
    "gelu, tp 2": tiny_plan({"tp": 2}, GELU),
    "gelu, sequence parallel": tiny_plan(SP, GELU),
    "gelu, selective": tiny_plan({}, GELU, recompute="selective"),
    "gelu, sequence parallel, selective": tiny_plan(SP, GELU, recompute="selective"),
    "gelu, frozen": tiny_plan({}, GELU, freeze=FROZEN),
    "gelu, frozen, sequence parallel": tiny_plan(SP, GELU, freeze=FROZEN),
    "gelu, frozen, selective": tiny_plan({"tp": 2}, GELU, freeze=FROZEN, recompute="selective"),
    "gated": tiny_plan({}, GATED),
    "gated, tp 2": tiny_plan({"tp": 2}, GATED),
    "gated, frozen": tiny_plan({}, GATED, freeze=FROZEN),
    "wide heads, sequence parallel": tiny_plan(SP, WIDE),
    "experts": tiny_plan({}, EXPERTS),
    "experts, tp 2": tiny_plan(SP, EXPERTS),
    "experts divided over tp": tiny_plan(SP | {"expt_tp": 2}, EXPERTS),
    "experts, frozen": tiny_plan({}, EXPERTS, freeze=FROZEN),
    "experts over 2 ranks": tiny_plan({"dp": 2, "ep": 2}, EXPERTS),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_layer_keeps_what_is_predicted(name: str) -> None:
    """All ranks of a module are counted together, since the router chooses how many tokens an expert gets."""
    plan = PLANS[name]
    found = ranks.run(plan.world_size, "kept_jobs:kept_tensors", plan.to_json())
    for module in plan.modules:
        tokens = tokens_of(plan, module)
        trains = not module.freeze.encoder
        each = token_activations(shape_of(module, tokens, specs.LOCAL), module.recompute, trains=trains)
        inner = [found[rank][module.name][1:] for rank in module.ranks]  # the first layer also keeps the tables
        for layers in zip(*inner, strict=True):
            kept = sum(num_bytes for layer in layers for shape, floats, num_bytes in layer if counts(shape, floats))
            assert kept == each * tokens.per_rank * len(module.ranks), module.name


def counts(shape: tuple[int, ...], is_floating: bool) -> bool:
    """Whether a tensor counts, because none of the rules above leaves it out."""
    is_table = len(shape) == 4 and shape[1] == shape[2] == 1
    return is_floating and shape[-1] > FEW and not is_table
