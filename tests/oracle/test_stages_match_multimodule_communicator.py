"""A plan's stages are those of megatron-core's MultiModulePipelineCommunicator, for the DAG and for every rank."""

from __future__ import annotations

from hypothesis import given

from planner import Batch, Module, Parallel, Spec

from .agreement import communicators_agree, is_constructible, stages_agree
from .layouts import MANY, Limits, planned, specs
from .megatron import Megatron

_ANY = Limits(min_modules=3, max_modules=5, max_ranks=12)
_CONSTRUCTIBLE = Limits(cp=False, divide=True, max_ranks=8)


@MANY
@given(spec=specs(_ANY))
def test_stages_match(megatron: Megatron, spec: Spec) -> None:
    plan = planned(spec)
    assert stages_agree(megatron, plan) == 1 + plan.world_size


@MANY
@given(spec=specs(_CONSTRUCTIBLE))
def test_whole_model_stages_match(megatron: Megatron, spec: Spec) -> None:
    plan = planned(spec)
    assert is_constructible(plan)
    assert communicators_agree(megatron, plan) == plan.world_size


def test_chain_with_a_module_after_language(megatron: Megatron) -> None:
    """images (2 stages) -> adapter (1) -> language (3) -> generator (2), and audio (4) -> language."""
    stages = {"images": 2, "adapter": 1, "audio": 4, "language": 3, "generator": 2}
    plan = planned(
        Spec(
            batch=Batch(global_size=4, micro_size=4, seq_length=4096),
            modules={name: Module(parallel=Parallel(pp=pp)) for name, pp in stages.items()},
            topology={"images": ["adapter"], "adapter": ["language"], "language": ["generator"]},
        )
    )
    assert plan.pipeline.num_stages == 4 + 3 + 2
    assert [plan.view(rank).position for rank in range(12)] == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert stages_agree(megatron, plan) == 13
    assert communicators_agree(megatron, plan) == 12
