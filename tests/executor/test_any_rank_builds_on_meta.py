"""Law: any rank of any world is built in one process without hardware, with the parameters that its sizes say."""

from __future__ import annotations

import pytest

from planner import Axis, Model, ModulePlan, Plan, compile_spec, load_spec
from tests import EXAMPLES
from tests.executor.jobs import ranks, specs

LARGE = compile_spec(load_spec(EXAMPLES / "llama70b_1024gpu.yaml"))
SMALL = specs.plan({"tp": 2, "pp": 2}, {"tp": 2, "pp": 2}, audio_parallel={"tp": 2})


def expected(plan: Plan, rank: int) -> dict[str, int]:
    return {module.name: _module(plan, module, rank) for module in plan.modules if rank in module.ranks}


def _module(plan: Plan, module: ModulePlan, rank: int) -> int:
    model, tp = module.model, module.grid.size_of(Axis.TP)
    assert model is not None
    assert module.stages is not None
    stage = module.grid.coord(rank, Axis.PP)
    first, last = stage == 0, stage == module.num_stages - 1
    total = module.stages[stage] * _layer(model, tp)
    width = model.hidden_size or 0
    norm = width if model.normalization == "RMSNorm" else 2 * width
    if model.family == "gpt":
        padded = -(-(model.vocab_size or 0) // (128 * tp)) * 128
        tied = not model.untie_embeddings_and_output_weights
        output = last and not (tied and first)
        return total + padded * width * (first + output) + (norm if last else 0)
    if first and model.family == "vit":
        patch, side = model.patch_size or 1, model.image_size or 1
        total += 3 * patch * patch * width + width + ((side // patch) ** 2 + 1) * width + norm
    if first and model.family == "audio":
        total += 3 * (model.num_mel_bins or 0) * width + width + 3 * width * width + width
    if last and model.family == "audio":
        total += norm
    if not last:
        return total
    out, inner = plan.module("language").model.hidden_size, model.projector_hidden_size  # type: ignore[union-attr]
    assert out is not None
    if inner is None:  # a single layer, whose outputs are divided
        return total + (width * out + out) // tp
    return total + (width * inner + inner) // tp + inner * out // tp + out


def _layer(model: Model, tp: int) -> int:
    """One transformer layer on one tp rank: matrices and the biases of columns are divided, the rest is whole."""
    h, f = model.hidden_size or 0, model.ffn_hidden_size or 0
    q = (model.num_attention_heads or 0) * (model.kv_channels or 0)
    k = (model.num_query_groups or 0) * (model.kv_channels or 0)
    fc1 = f * (2 if model.gated_linear_unit else 1)
    divided = h * (q + 2 * k) + q * h + h * fc1 + f * h
    whole = 2 * (h if model.normalization == "RMSNorm" else 2 * h)
    if model.add_bias_linear:
        divided += q + 2 * k + fc1
        whole += 2 * h
    return divided // tp + whole


@pytest.mark.parametrize("plan", [LARGE, SMALL], ids=["llama70b_1024gpu", "small"])
def test_parameters_are_those_that_the_sizes_say(plan: Plan) -> None:
    chosen = sorted({0, 1, plan.world_size // 2, plan.module("images").ranks[0], plan.world_size - 1})
    (found,) = ranks.run(1, "jobs:parameters_of_ranks", plan.to_json(), chosen)
    assert found == {rank: expected(plan, rank) for rank in chosen}
