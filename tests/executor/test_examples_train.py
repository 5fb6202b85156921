"""Law: every example trains, cut to 8 ranks and a width of 64 at most, or says at planning why not and what would.

A cut keeps what makes the layout of an example: which axes are above 1, which modules share ranks, stages that differ,
experts, frozen parts, recomputation and training settings.
"""

from __future__ import annotations

from math import isfinite, lcm
from typing import Any

import attrs
import pytest

from planner import Batch, Model, Module, Plan, Spec, compile_spec, load_spec
from planner.limits.layers import Layers
from planner.limits.limits import limits_of
from planner.limits.target import Target
from tests import EXAMPLES
from tests.executor.jobs import ranks

WIDTH, HEADS, LENGTH, VOCABULARY = 64, 8, 64, 512
LOCAL, TRANSFORMER_ENGINE = (Target(layers=layers) for layers in Layers)

CUTS: dict[str, dict[str, dict[str, int]]] = {  # the axes that a cut changes
    "llama70b_1024gpu": {
        "language": {"tp": 1, "cp": 2, "pp": 2, "dp": 1},
        "images": {"tp": 2, "dp": 1},
        "audio": {"dp": 2},
    },
    "llava_8gpu": {},
    "llava_8gpu_colocated": {},
    "moe_ep8_32gpu": {"language": {"tp": 2, "dp": 2, "ep": 2}, "images": {"dp": 4}},
    "qwen35_vl_17rank": {"language": {"tp": 2, "dp": 1}, "images": {"rank_offset": 4}},
    "tiny_4rank": {},
    "vision_audio_64gpu": {
        "language": {"tp": 2, "dp": 1},
        "images": {"tp": 2, "dp": 1},
        "audio": {"dp": 2},
    },
    "vision_audio_8gpu": {},
}
TRAINED = [name for name in CUTS if name not in ("llama70b_1024gpu", "qwen35_vl_17rank")]


def cut(name: str, **axes: dict[str, int]) -> Plan:
    """The small plan of an example; `axes` change further axes of a module."""
    whole = compile_spec(load_spec(EXAMPLES / f"{name}.yaml")).to_spec()
    modules = {
        module: narrowed(module, part, CUTS[name].get(module, {}) | axes.get(module, {}), number)
        for number, (module, part) in enumerate(whole.modules.items())
    }
    lanes = lcm(*(part.parallel.dp for part in modules.values() if part.parallel and part.parallel.dp))
    batch = Batch(global_size=4 * lanes, micro_size=2 * lanes, seq_length=LENGTH)
    return compile_spec(attrs.evolve(whole, cluster=None, batch=batch, modules=laid_out(whole, modules)))


def laid_out(whole: Spec, modules: dict[str, Module]) -> dict[str, Module]:
    """The modules end to end, unless all of them start at rank 0."""
    offsets = [part.parallel.rank_offset for part in whole.modules.values() if part.parallel]
    start, found = 0, {}
    for name, part in modules.items():
        axes = part.parallel
        assert axes is not None
        found[name] = attrs.evolve(part, parallel=attrs.evolve(axes, rank_offset=start))
        start += axes.tp * axes.cp * axes.pp * (axes.dp or 1) if any(offsets) else 0
    return found


def narrowed(name: str, module: Module, axes: dict[str, int], number: int) -> Module:
    parallel = attrs.evolve(module.parallel, **axes)
    if parallel.tp == 1:
        parallel = attrs.evolve(parallel, sequence_parallel=False)
    stages = tuple(range(1, 1 + parallel.pp)) if module.stages and len(set(module.stages)) > 1 else None
    model = module.model and small(module.model, sum(stages) if stages else 2 * parallel.pp, parallel.tp)
    tokens = module.output.tokens_per_sample
    if tokens is not None and module.model is not None and model is not None:
        tokens = tokens // per_item(module.model) * per_item(model)
    return attrs.evolve(
        module,
        parallel=parallel,
        model=model,
        stages=stages,
        output=attrs.evolve(module.output, tokens_per_sample=tokens),
        special_token_id=None if module.special_token_id is None else VOCABULARY - 1 - number,
    )


def small(model: Model, num_layers: int, tp: int) -> Model:
    """A model of the same kind, with as many query groups for each tp rank, and heads as wide in proportion."""
    grouped = model.num_query_groups != model.num_attention_heads
    wide = (model.kv_channels or 1) * (model.num_attention_heads or 1) // (model.hidden_size or 1)
    sizes: dict[str, Any] = {
        "preset": None,
        "num_layers": num_layers,
        "hidden_size": WIDTH,
        "ffn_hidden_size": 2 * WIDTH,
        "num_attention_heads": HEADS,
        "num_query_groups": tp if grouped else HEADS,
        "kv_channels": wide * WIDTH // HEADS,
    }
    of_family = {
        "gpt": {"vocab_size": VOCABULARY, "max_positions": LENGTH},
        "vit": {"image_size": 16, "patch_size": 8},
        "audio": {"num_mel_bins": 5, "max_positions": 6},
    }
    if model.num_moe_experts is not None:
        sizes |= {"num_moe_experts": 8, "moe_router_topk": 2}
    if model.projector_hidden_size is not None:
        sizes["projector_hidden_size"] = WIDTH
    return attrs.evolve(model, **sizes, **of_family[model.family or ""])


def per_item(model: Model) -> int:
    """The tokens of an image or a clip."""
    if model.family == "vit":
        return ((model.image_size or 1) // (model.patch_size or 1)) ** 2
    return (model.max_positions or 1) // 2


def train(plan: Plan) -> None:
    """Two steps, with the settings of the example, after which all ranks say the same."""
    assert plan.world_size <= 8
    settings = {**attrs.asdict(plan.training), "steps": 2}
    results = ranks.run(plan.world_size, "jobs:train", plan.to_json(), settings)
    for result in results:
        assert result["steps"] == results[0]["steps"]
    for loss, norm, num_tokens in results[0]["steps"]:
        assert isfinite(loss)
        assert isfinite(norm)
        assert norm > 0
        assert num_tokens > 0


def test_every_example_is_cut() -> None:
    assert set(CUTS) == {path.stem for path in EXAMPLES.glob("*.yaml")}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_keeps_the_layout(name: str) -> None:
    """The axes that are above 1 stay so, but tp or dp of some module where 8 ranks have no room for it."""
    whole, plan = compile_spec(load_spec(EXAMPLES / f"{name}.yaml")), cut(name)
    assert plan.world_size <= 8
    assert plan.layout is whole.layout
    assert plan.edges == whole.edges
    for one, other in zip(plan.modules, whole.modules, strict=True):
        for axis in ("cp", "pp", "ep"):
            assert (one.grid.size_of(axis) > 1) == (other.grid.size_of(axis) > 1)
        assert (one.freeze, one.recompute) == (other.freeze, other.recompute)
        assert (one.model is None) == (other.model is None)
        assert one.model is None or one.model.hidden_size == WIDTH


@pytest.mark.parametrize("name", TRAINED)
def test_it_trains(name: str) -> None:
    plan = cut(name)
    assert limits_of(plan, LOCAL) == limits_of(plan, TRANSFORMER_ENGINE) == ()
    train(plan)


def test_what_needs_transformer_engine_says_so_and_trains_without_cp() -> None:
    """llama70b_1024gpu, with tp in the place of cp."""
    plan = cut("llama70b_1024gpu")
    (found,) = limits_of(plan, LOCAL)
    assert (found.code, found.path) == ("R202", ("modules", "language", "parallel", "cp"))
    assert "GPUs with transformer-engine" in found.remedy
    assert limits_of(plan, TRANSFORMER_ENGINE) == ()
    train(cut("llama70b_1024gpu", language={"cp": 1, "tp": 2}))


def test_a_layout_alone_says_what_it_lacks_and_trains_with_it() -> None:
    """qwen35_vl_17rank, with the models of llava_8gpu."""
    plan, donor = cut("qwen35_vl_17rank"), cut("llava_8gpu").to_spec().modules
    assert {limit.code for limit in limits_of(plan, LOCAL)} == {"R206", "R207"}
    spec = plan.to_spec()
    modules = {
        name: attrs.evolve(module, model=donor[name].model, special_token_id=donor[name].special_token_id)
        for name, module in spec.modules.items()
    }
    train(compile_spec(attrs.evolve(spec, modules=modules)))
