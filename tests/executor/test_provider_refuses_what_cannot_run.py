"""Law: what cannot run, or would train silently wrong, is refused by name, before any group or on all ranks at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.executor.jobs import ranks, specs

GOOD = specs.plan({"dp": 2}, {}, fixed=True)
OTHER = specs.plan({"dp": 2}, {"order": "tp-cp-pp-dp"}, fixed=True)
BEYOND = specs.plan({"rank_offset": 0, "pp": 2}, {"rank_offset": 1, "dp": 2}, fixed=True)
LARGER = specs.plan({"dp": 2}, {"dp": 2}, fixed=True)


def test_launches_end_before_any_group() -> None:
    """Megatron-Bridge #4651 is the case of the version."""
    assert GOOD.world_size == OTHER.world_size == BEYOND.world_size == 3
    others = [plan.to_json() for plan in (GOOD, GOOD, OTHER)]
    results = ranks.run(3, "provider_jobs:launches", GOOD.to_json(), others, BEYOND.to_json(), LARGER.to_json())
    beyond = "an encoder shares ranks with language's first stage only; rank 1 is of a later one"
    for result in results:
        said = result["said"]
        assert result["groups"] == 0
        assert f"plan {GOOD.digest} on ranks 0-1, {OTHER.digest} on rank 2" in said["plans"]
        assert "seed 0 on rank 0, 1 on rank 1, 2 on rank 2" in said["settings"]
        assert beyond in said["limit"]
        assert "world size = 3, but the plan is for 4 ranks" in said["world"]
        assert "num_layers = 4 in the plan (stages [4]), got 2" in said["specs"]
        assert "megatron-core 0.16.1 is not known here" in said["version"]
        assert beyond in said["finalize"]
        assert beyond in said["grids_limit"]


def test_what_megatron_core_derives_is_compared_with_the_plan() -> None:
    plan = specs.plan({}, {"dp": 2, "order": "dp-cp-pp-tp"}, fixed=True)
    for said in ranks.run(plan.world_size, "provider_jobs:another_grid", plan.to_json()):
        assert "of images: the plan says" in said


def test_a_loss_that_counts_no_tokens_stops_all_ranks() -> None:
    """megatron-core takes two values for a mean, and gradients would be off by the number of tokens."""
    for said in ranks.run(3, "provider_jobs:bad_losses", GOOD.to_json()):
        assert "num_tokens = 0: the loss function returned two values" in said["two_values"]
        assert said["masked"] == "", "a batch that is masked as a whole has no gradients, and is none's fault"
        assert "num_tokens is None on 2 ranks of language's last stage" in said["none"]
        assert "return (sum of losses, num_tokens, report)" in said["none"]


RULES = {
    "per_token": ("language_model_spec.params['config']", "calculate_per_token_loss = True in every module"),
    "per_token_projection": (
        "input_projections[0].params['config']",
        "calculate_per_token_loss = True in every module",
    ),
    "skipped_layers": ("modality_submodules_spec['images']", "pp = 2, but VisionModalitySubmodules.forward is"),  # a
    "unaware_of_stages": ("modality_submodules_spec['images']", "pp = 2, but vit takes neither pre_process nor"),
    "tokens_first": ("modality_submodules_spec['images']", "vit is a TransformerBlock: tokens first"),  # defect b
    "allgather": ("language_model_spec", "moe_token_dispatcher_type allgather cannot take sequences of varying"),
    "dropout_under_sp": ("language_model_spec", "hidden_dropout = 0 under sequence parallelism, got 0.1"),  # defect c
    "scatter_under_sp": ("language_model_spec", "scatter_embedding_sequence_parallel = False under sequence"),
    "fed": ("modality_submodules_spec['audio']", "images feeds audio, but EncoderSubmodules.forward runs no encoder"),
    "local_context": ("language_model_spec", "cp = 1 with DotProductAttention, got 2"),
    "size": ("language_model_spec", "tensor_model_parallel_size = tp of language = 2, got 4"),
    "sp_flag": ("language_model_spec", "sequence_parallel = True in the plan for this part, got False"),
    "virtual": ("language_model_spec", "no interleaved schedule, got virtual pipeline size 2"),
    "dtype": ("language_model_spec", "the provider's dtype is torch.float32, got torch.bfloat16 parameters"),
    "pipeline_dtype": ("language_model_spec", "dtype is torch.bfloat16, got pipeline_dtype torch.float32"),
    "layers": ("language_model_spec", "num_layers = 4 in the plan (stages [2, 2]), got 8"),
    "stage_layers": ("language_model_spec", "first and last stage hold (2, 2) layers in the plan, got (3, 1)"),
    "stage_settings": ("encoders['vit']", "are the plan's, [2, 2], got account_for_embedding_in_pipeline_split"),
    "group": ("language_model_spec", "process groups come from the plan, got params pg_collection"),
    "no_weights": ("language_model_spec", "perform_initialization = False, and no pre_wrap_hook"),
    "no_config": ("modality_submodules_spec['images']", "some encoder or projection has a TransformerConfig"),
    "no_language_config": ("language_model_spec", "MimoModel reads params['config'], a TransformerConfig"),
    "no_submodules": ("modality_submodules_spec['images']", "names a subclass of ModalitySubmodules"),
}


@pytest.fixture(scope="module")
def spec_faults() -> dict[str, Any]:
    return ranks.run(1, "provider_checks:spec_faults")[0]


@pytest.fixture(scope="module")
def refusals() -> dict[str, str]:
    return ranks.run(1, "provider_checks:refusals")[0]


@pytest.mark.parametrize("name", RULES)
def test_specs_are_refused_by_name(name: str, spec_faults: dict[str, Any]) -> None:
    place, rule = RULES[name]
    found = [(where, said, remedy) for where, said, remedy in spec_faults[name] if rule in said]
    assert len(found) == 1, spec_faults[name]
    assert place in found[0][0]
    assert found[0][2]


def test_sound_specs_are_not_refused(spec_faults: dict[str, Any]) -> None:
    for name in ("sound", "dropout", "weights_by_hook"):
        assert spec_faults[name] == []


def test_every_fault_of_specs_is_named_at_once(spec_faults: dict[str, Any]) -> None:
    assert [where for where, _, _ in spec_faults["names"]] == ["language_model_spec", "modality_submodules_spec"]
    assert "one spec per encoder of the plan: ['images'], got ['pictures']" in spec_faults["names"][1][1]
    assert len(spec_faults["many"]) == 2


SAID = {
    "virtual": "virtual_pipeline_model_parallel_size = 2: megatron-core has no interleaved schedule",
    "virtual_later": "virtual_pipeline_model_parallel_size = 2: megatron-core has no interleaved schedule",
    "fp16": "fp16: loss scaling over several modules is not right",
    "fp16_later": "fp16: loss scaling over several modules is not right",
    "fp16_plan": "fp16: loss scaling over several modules is not right",
    "fsdp": "FSDP is not for several modules",
    "fsdp2": "FSDP is not for several modules",
    "fsdp_config": "FSDP is not for several modules",
    "chunks": "needs several model chunks",
    "meta_ddp": "DistributedDataParallel needs parameters with storage",
    "unknown": "has no argument ddp_confg",
    "no_group": "call torch.distributed.init_process_group",
    "no_specs": "no spec of it was given",
    "llava_specs": "give yours to MimoModelProvider",
    "llava_chain": "ready-made encoders feed language, and take no other module's output; images feeds ['audio']",
    "freeze_name": "freeze_modality_encoders: image is no encoder of the plan, which has ['images']",
    "token_name": "special_token_ids: image is no encoder of the plan",
    "no_token": "special_token_ids: images has none",
    "apart": "only modules on the same ranks have colocated bridges",
    "not_mimo": "expected a MimoModel, wrapped or not, got Linear",
    "stub": "ranks 6, 7 have no module",
    "stub_plan": "ranks 6, 7 have no module",
    "missing": "ranks 4, 5 are missing from the world",
    "contract": "global_batch_size = 8, got 16; micro_batch_size = 4, got 2; num_microbatches = 2, got 8",
    "contract_source": "expected a plan, or what carries one as .plan, got object",
}


@pytest.mark.parametrize("name", SAID)
def test_calls_are_refused_by_name(name: str, refusals: dict[str, str]) -> None:
    assert SAID[name] in refusals[name]


def test_sound_calls_are_not_refused(refusals: dict[str, str]) -> None:
    assert refusals["stub_holds"] == refusals["contract_holds"] == ""
    assert refusals["is_value_error"] == "True"
    assert refusals["no_op"] == "None"
