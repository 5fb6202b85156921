"""Law: what megatron-core 0.19 cannot run, and nothing else, is refused before any collective, with rule and remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from executor.errors import UnsupportedError
from executor.start.limits import check_limits
from planner import Fault, FrozenMap, Module, Output, Parallel, Plan, compile_spec
from planner.limits.layers import Layers
from planner.limits.limits import limits_of
from planner.limits.target import FORWARD_PASS, READY_MODELS, Target, component_of
from planner.testing import PlanOf
from tests import EXAMPLES, ROOT
from tests.executor.jobs import specs

READY = Target(layers=Layers.LOCAL)
OWN_SPECS = Target(layers=Layers.LOCAL, own_specs=True)


def is_of(fault: Fault, component: str) -> bool:
    """Whether a limit is this component's, and says so."""
    return component_of(fault.code) == component and fault.rule.endswith(f" [{component}]")


def changed(plan: Plan, module: str, **changes: object) -> Plan:
    """The plan after one module of its spec was changed."""
    spec = plan.to_spec()
    modules = dict(spec.modules) | {module: attrs.evolve(spec.modules[module], **changes)}
    return compile_spec(attrs.evolve(spec, modules=FrozenMap(modules)))


THREE = specs.plan({}, {}, audio_parallel={})
EXPERTS = {"language": specs.language(num_moe_experts=4)}
SIX_LAYERS = {"language": specs.language(num_layers=8)}
BEYOND = {
    "cp": (specs.plan({"cp": 2}, {}), "cp = 1 with local attention, got 2"),
    "cp_encoder": (specs.plan({}, {"cp": 2}), "the encoders do not divide their sequences"),
    "colocated_pp": (
        specs.plan({"pp": 2}, {"dp": 2}, placement="colocated"),
        "shares ranks with language's first stage only; rank 1 is of a later one",
    ),
    "colocated_encoder_pp": (
        specs.plan({"tp": 2}, {"pp": 2}, placement="colocated"),
        "an encoder on ranks of language has pp = 1, got 2",
    ),
    "inside_and_apart": (
        specs.plan(
            {"tp": 2, "rank_offset": 0}, {"dp": 2, "rank_offset": 1}, audio_parallel={"dp": 2, "rank_offset": 2}
        ),
        "of images and audio, which share ranks, both or neither share ranks with language",
    ),
    "two_edges": (
        specs.routed(THREE, {"audio": ("images", "language"), "images": ("language",)}),
        "take no other module's output; audio feeds ['language', 'images']",
    ),
    "chain": (specs.routed(THREE, {"audio": ("images",), "images": ("language",)}), "audio feeds ['images']"),
    "generator": (
        specs.routed(THREE, {"language": ("audio",), "images": ("language",)}),
        "MimoModel ends with language; audio comes after it",
    ),
    "no_token": (changed(THREE, "images", special_token_id=None), "places a module's output at its special_token_id"),
    "three_dims": (changed(THREE, "images", output=Output(tensor_dims=3)), "tensor_dims = 2, got 3"),
    "encoder_sp": (specs.plan({}, {"tp": 2, "sequence_parallel": True}), "sequence_parallel is for language"),
    "queries": (
        specs.plan({"tp": 4}, {}, models={"language": specs.language(num_query_groups=2)}),
        "num_query_groups >= tp, got 2 < 4",
    ),
    "experts_tp": (specs.plan({"tp": 2}, {}, models=EXPERTS), "tp = 2 without it"),
    "experts_bias": (
        specs.plan({}, {}, models={"language": specs.language(num_moe_experts=4, add_bias_linear=True)}),
        "experts have no biases",
    ),
    "uneven_middle": (
        changed(specs.plan({"pp": 4}, {}, models=SIX_LAYERS), "language", stages=(1, 2, 3, 2)),
        "all stages but the first and the last hold equally many layers",
    ),
    "sharing_encoders": (
        specs.plan(
            {"rank_offset": 0}, {"pp": 2, "rank_offset": 1}, audio_parallel={"tp": 2, "rank_offset": 1}, fixed=True
        ),
        "encoders that share ranks have pp = 1 or the same grid",
    ),
}
# What the ready-made models cannot run, while a user's own may.
OWN = {"cp", "cp_encoder", "two_edges", "chain", "no_token", "encoder_sp", "queries"}


def chained(images: dict[str, int], audio: dict[str, int], language: dict[str, int], *edges: str) -> Plan:
    """The plan of images -> audio -> language, and of what `edges` add to it."""
    plan = specs.plan(language, images, audio_parallel=audio)
    return specs.routed(plan, {"images": ("audio", *edges), "audio": ("language",)})


SPEECH = Module(
    parallel=Parallel(dp=1, rank_offset=3), output=Output(tensor_dims=2), model=specs.audio(), special_token_id=11
)
CHAINED = chained({"rank_offset": 0}, {"rank_offset": 1}, {"rank_offset": 2}).to_spec()
FOUR = compile_spec(
    attrs.evolve(
        CHAINED,
        modules=FrozenMap(dict(CHAINED.modules) | {"speech": SPEECH}),
        topology={"images": ("audio",), "speech": ("audio",), "audio": ("language",)},
    )
)
PASSES = {
    "two_inputs": (FOUR, "as its hidden_states; audio takes ['images', 'speech']"),
    "unequal_ranks": (
        chained({"rank_offset": 1}, {"rank_offset": 1, "dp": 2}, {"rank_offset": 0}),
        "images feeds audio on ranks of its own, so both have the same ranks and pp = 1",
    ),
    "two_graphs": (
        chained({"rank_offset": 1}, {"rank_offset": 1}, {"rank_offset": 0}, "language"),
        "so it feeds nothing else, because each output of the pass has a backward pass of its own; it feeds "
        "['language', 'audio']",
    ),
    "out_and_back": (
        chained({"rank_offset": 0}, {"rank_offset": 1}, {"rank_offset": 0}),
        "which cannot wait for what comes of it; found language -> audio -> language",
    ),
}


@pytest.mark.parametrize("name", PASSES)
def test_what_one_forward_pass_cannot_do_is_refused_of_own_specs_too(name: str) -> None:
    plan, rule = PASSES[name]
    (found,) = limits_of(plan, OWN_SPECS)
    assert is_of(found, FORWARD_PASS)
    assert rule in found.rule


@pytest.mark.parametrize("name", BEYOND)
def test_own_specs_are_not_held_to_what_the_ready_models_cannot(name: str) -> None:
    plan, _ = BEYOND[name]
    ready = [limit for limit in limits_of(plan, READY) if is_of(limit, READY_MODELS)]
    assert bool(ready) == (name in OWN)
    assert list(limits_of(plan, OWN_SPECS)) == [limit for limit in limits_of(plan, READY) if limit not in ready]
    if name in OWN:
        check_limits(plan, own_specs=True)


@pytest.mark.parametrize("name", BEYOND)
def test_refused_by_name(name: str) -> None:
    plan, rule = BEYOND[name]
    with pytest.raises(UnsupportedError, match="this plan cannot run here") as caught:
        check_limits(plan)
    assert rule in str(caught.value)
    assert str(caught.value).count("fix: ") == len(limits_of(plan, READY))


@pytest.mark.parametrize("name", ["tiny_4rank", "llava_8gpu", "llava_8gpu_colocated", "vision_audio_8gpu"])
def test_examples_are_within_the_limits(name: str, plan_of: PlanOf) -> None:
    assert [str(limit) for limit in limits_of(plan_of(EXAMPLES / f"{name}.yaml"), READY)] == []


def test_the_library_refuses_another_version_before_its_import_fails(tmp_path: Path) -> None:
    """0.18.2, for one, has no views in HyperCommGrid. A stand-in for it cannot be imported at all."""
    metadata = tmp_path / "megatron_core-0.18.2.dist-info" / "METADATA"
    package = tmp_path / "megatron" / "__init__.py"
    for path, text in (
        (metadata, "Name: megatron-core\nVersion: 0.18.2\n"),
        (package, "raise ImportError('imported')\n"),
    ):
        path.parent.mkdir()
        path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", "import executor.library"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "megatron-core 0.18.2 is not known here; this executor was checked against 0.19: pip install" in done.stderr
