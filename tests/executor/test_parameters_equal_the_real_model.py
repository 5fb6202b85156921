"""Law: every rank has exactly as many parameters as megatron-core's own model, which is built on the meta device."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from planner import Axis, Freeze, Model, Plan, compile_spec, load_spec
from planner.cost.work.facts import facts_of
from planner.cost.work.settings import Settings
from tests import EXAMPLES
from tests.executor.jobs import ranks, specs

TIED = specs.language(untie_embeddings_and_output_weights=False)
GPT3 = specs.language(
    normalization="LayerNorm", activation="gelu", gated_linear_unit=False, add_bias_linear=True, kv_channels=16
)
GROUPED = specs.language(num_query_groups=2)
EXPERTS = specs.language(num_moe_experts=4, moe_router_topk=2)
GPT3_EXPERTS = specs.language(
    num_moe_experts=4, normalization="LayerNorm", gated_linear_unit=False, add_bias_linear=True, activation="gelu"
)
LINEAR = specs.vision(projector_hidden_size=None)


def _plan(language: dict[str, Any], model: Model, **changes: Any) -> Plan:
    images = changes.pop("images", {"tp": 2})
    return specs.plan(language, images, models={"language": model, **changes.pop("models", {})}, **changes)


def _staged(plan: Plan, **stages: tuple[int, ...]) -> Plan:
    """The plan with these numbers of layers per stage, for some modules."""
    spec = plan.to_spec()
    modules = {name: attrs.evolve(one, stages=stages.get(name)) for name, one in spec.modules.items()}
    return compile_spec(attrs.evolve(spec, modules=modules))


CASES: dict[str, Plan] = {
    "gpt tp2 pp2": _plan({"tp": 2, "pp": 2}, specs.language()),
    "gpt tp4": _plan({"tp": 4}, specs.language()),
    "tied pp1": _plan({"tp": 2}, TIED),
    "tied pp2": _plan({"pp": 2}, TIED),
    "tied pp4 tp2": _plan({"tp": 2, "pp": 4}, TIED),
    "gpt3 tp2 pp2": _plan({"tp": 2, "pp": 2}, GPT3),
    "gpt3 tp4 pp4": _plan({"tp": 4, "pp": 4}, GPT3),
    "grouped tp2": _plan({"tp": 2}, GROUPED),
    "grouped fewer groups than tp": _plan({"tp": 4, "pp": 2}, GROUPED),
    "one expert of four": _plan({"dp": 2, "ep": 2}, specs.language(num_moe_experts=4, moe_router_topk=1)),
    "experts ep2": _plan({"dp": 2, "ep": 2}, EXPERTS),
    "experts ep4 tp2": _plan({"tp": 2, "dp": 2, "ep": 4}, EXPERTS),
    "experts ep2 expt_tp2 pp2": _plan({"tp": 2, "dp": 2, "pp": 2, "ep": 2, "expt_tp": 2}, EXPERTS),
    "gpt3 experts ep4": _plan({"tp": 2, "dp": 2, "ep": 4}, GPT3_EXPERTS),  # megatron-core has no biases with expt_tp
    "encoders tp2 pp2": _plan({"tp": 2}, specs.language(), images={"tp": 2, "pp": 2}, audio_parallel={"tp": 2}),
    "uneven stages": _staged(_plan({"pp": 2}, TIED, images={"tp": 2, "pp": 2}), language=(1, 3), images=(3, 1)),
    "audio, one linear projection": _plan(
        {"tp": 2}, GPT3, audio_parallel={"tp": 4}, models={"audio": specs.audio(projector_hidden_size=None)}
    ),
    "cp": _plan({"cp": 2, "pp": 2}, specs.language()),
    "audio pp2": _plan({}, specs.language(), audio_parallel={"pp": 2}),
    "one linear projection": _plan({"tp": 2}, specs.language(), models={"images": LINEAR}),
    "frozen": _plan({}, specs.language(), freeze={"images": Freeze(encoder=True)}),
    "llama70b on 1,024": compile_spec(load_spec(EXAMPLES / "llama70b_1024gpu.yaml")),
    "moe on 32": compile_spec(load_spec(EXAMPLES / "moe_ep8_32gpu.yaml")),
}


def counted(plan: Plan, rank: int) -> dict[str, int]:
    facts = facts_of(plan, Settings())
    return {
        module.name: facts[module.name, module.grid.coord(rank, Axis.PP)].parameters.total
        for module in plan.modules
        if rank in module.ranks
    }


def chosen_ranks(plan: Plan) -> list[int]:
    """All ranks of a small plan, or the first and last of every stage of a large one."""
    if plan.world_size <= 16:
        return list(range(plan.world_size))
    found = set()
    for module in plan.modules:
        first = [next(r for r in module.ranks if module.grid.coord(r, Axis.PP) == s) for s in range(module.num_stages)]
        found |= {*first, module.ranks[-1]}
    return sorted(found)


@pytest.mark.parametrize("name", CASES)
def test_parameters_equal_the_real_model(name: str) -> None:
    plan = CASES[name]
    chosen = chosen_ranks(plan)
    (found,) = ranks.run(1, "jobs:parameters_of_ranks", plan.to_json(), chosen, timeout=250)
    assert {rank: counted(plan, rank) for rank in chosen} == found


def test_frozen_parameters_are_counted_apart() -> None:
    plan = CASES["frozen"]
    images = facts_of(plan, Settings())["images", 0].parameters
    trained = facts_of(_plan({}, specs.language()), Settings())["images", 0].parameters
    assert images.frozen > 0
    assert images.dense > 0  # the projection trains
    assert trained.frozen == 0
    assert trained.total == images.total
