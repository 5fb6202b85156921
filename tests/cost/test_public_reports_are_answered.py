"""Law: what public reports showed stays mended. Each test names the report and has the right value.

The reports are questions, bug reports and measured tables of 2023 to 2026 about Megatron-LM, Megatron-Bridge, ms-swift
and dlrover, written as specs.
"""

# ruff: noqa: E501  specs as they would be written

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from planner import Fault, Plan, PlanError, Spec, compile_spec, parse_spec
from planner.advice.gains import with_gains
from planner.cli import main
from planner.cost.predict import predict
from planner.limits.layers import Layers
from planner.limits.limits import limits_of
from planner.limits.target import Target
from planner.spec.names import NAMES

MIXTRAL = (
    "{family: gpt, num_layers: 32, hidden_size: 4096, ffn_hidden_size: 14336, num_attention_heads: 32, num_query_groups: 8, "
    "gated_linear_unit: true, vocab_size: 32000, max_positions: 32768, num_moe_experts: 8, moe_router_topk: 2, "
    "normalization: RMSNorm, add_bias_linear: false, untie_embeddings_and_output_weights: true}"
)
IMAGES = (
    "images: {parallel: {dp: 4}, model: {preset: clip-vit-l-14-336}, output: {tensor_dims: 2, tokens_per_sample: 576}}"
)
AUDIO = "audio: {parallel: {dp: 4}, model: {preset: whisper-base}, output: {tensor_dims: 2, tokens_per_sample: 1500}}"


def moe(*modules: str) -> str:
    """A spec of a mixture of experts with encoders, on two nodes of eight."""
    head = "cluster: {nodes: 2, gpus_per_node: 8, gpu: h100}\nbatch: {global_size: 64, micro_size: 8, seq_length: 4096}\nmodules:\n"
    return head + "".join(f"  {module}\n" for module in modules)


def language(parallel: str) -> str:
    return f"language: {{parallel: {{{parallel}}}, model: {MIXTRAL}, recompute: full}}"


def seconds(text: str) -> float:
    return predict(compile_spec(parse_spec(text))).step_seconds


def crossing(text: str) -> tuple[Plan, Fault]:
    plan = compile_spec(parse_spec(text))
    (found,) = (fault for fault in plan.warnings if fault.code.name in ("W001", "W007"))
    return plan, found


def refused(text: str, world_size: int | None = None) -> tuple[Fault, ...]:
    with pytest.raises(PlanError) as caught:
        compile_spec(parse_spec(text), world_size=world_size)
    return caught.value.faults


# what is written, its code and the ranks of a group, the remedy, and the spec with it
CROSSING = {
    "F1: ep 8 behind an encoder": (
        moe(IMAGES, language("dp: 8, ep: 8"), AUDIO),
        ("W007", "4-11"),
        "write language before the other modules",
        moe(language("dp: 8, ep: 8"), IMAGES, AUDIO),
    ),
    "F1: expt_tp 8 behind an encoder": (
        moe(IMAGES, language("dp: 8, expt_tp: 8"), AUDIO),
        ("W001", "4-11"),
        "write language before the other modules",
        moe(language("dp: 8, expt_tp: 8"), IMAGES, AUDIO),
    ),
    "F1: an order with pp before what experts use (dlrover 1740)": (
        moe(language("pp: 2, dp: 8, ep: 8, order: tp-cp-pp-dp")),
        ("W007", "0-14 by 2"),
        "order: tp-cp-dp-pp on language",
        moe(language("pp: 2, dp: 8, ep: 8")),
    ),
}


@pytest.mark.parametrize("name", CROSSING)
def test_experts_that_cross_nodes_without_need_are_told_of(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, (code, ranks), remedy, mended = CROSSING[name]
    plan, warning = crossing(text)
    assert (warning.code.name, warning.remedy) == (code, remedy)
    assert f"the one of ranks {ranks} does not" in warning.rule
    before, after = seconds(text), seconds(mended)
    assert after < before
    assert compile_spec(parse_spec(mended)).warnings == ()
    (priced,) = (one for one in with_gains(plan, predict(plan), plan.warnings) if one.code.name == code)
    given = [float(number) for number in re.findall(r"([\d.]+) s", priced.remedy)]
    assert given == pytest.approx([after, before], rel=0.01)
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    assert main(["predict", str(path)]) == 0
    assert priced.remedy in capsys.readouterr().err


def test_offsets_are_advised_where_offsets_are_written() -> None:
    """F1 of the public reports, with a rank_offset on every module."""
    text = moe(
        IMAGES.replace("dp: 4", "dp: 4, rank_offset: 0"),
        language("dp: 8, ep: 8, rank_offset: 4"),
        AUDIO.replace("dp: 4", "dp: 4, rank_offset: 12"),
    )
    _, warning = crossing(text)
    assert warning.remedy == "rank_offset: 0 on language, 8 on images, 12 on audio"


def test_experts_that_have_to_cross_are_not_told_of() -> None:
    text = moe(language("dp: 16, ep: 16")).replace("num_moe_experts: 8", "num_moe_experts: 16")
    assert compile_spec(parse_spec(text.replace("micro_size: 8", "micro_size: 16"))).warnings == ()


def test_a_spec_that_trains_nothing_cannot_run() -> None:
    """F2 (ms-swift 7318): every module wholly frozen trained with gradient norm 0, and exited with 0."""
    plan = compile_spec(
        parse_spec(
            moe(
                IMAGES[:-1] + ", freeze: true}",
                language("dp: 8")[:-1] + ", freeze: true}",
                AUDIO[:-1] + ", freeze: true}",
            )
        )
    )
    found = [fault for fault in limits_of(plan, Target(layers=Layers.TRANSFORMER_ENGINE)) if fault.code.name == "R108"]
    assert len(found) == 1
    assert "freeze" in found[0].remedy


@pytest.mark.parametrize(
    ("name", "says", "never"),
    [
        ("vpp", "not modelled: virtual pipeline stages", "`pp`"),
        ("etp", "write `parallel.expt_tp`", "`parallel.tp`"),
        ("disable_bias_linear", "with the opposite value", "remove"),
        ("tensor_model_parallel_size", "write `parallel.tp`", "remove"),
        ("num_layers_in_first_pipeline_stage", "write `stages: [...]`", "remove"),
        ("decoder_last_pipeline_num_layers", "write `stages: [...]`", "remove"),
        ("pipeline_model_parallel_layout", "write `stages: [...]`", "remove"),
        ("swiglu", "write `gated_linear_unit: true`", "remove"),
        ("tie_word_embeddings", "with the opposite value", "remove"),
        ("bf16", "write `training: {dtype: bf16", "remove"),
        ("moe_shared_expert_intermediate_size", "not modelled", "remove"),
        ("first_k_dense_replace", "not modelled", "remove"),
        ("moe_layer_freq", "not modelled", "remove"),
        ("qk_layernorm", "not modelled", "remove"),
        ("lora_rank", "not modelled", "remove"),
        ("fp8", "not modelled", "remove"),
    ],
)
def test_names_of_other_software_keep_their_meaning(name: str, says: str, never: str) -> None:
    """F5: suggestions by spelling changed the meaning."""
    assert says in NAMES[name].remedy
    assert never not in NAMES[name].remedy


@pytest.mark.parametrize(
    ("size", "value"),
    [
        ("virtual_pipeline_model_parallel_size", 2),
        ("num_layers_in_first_pipeline_stage", 4),
        ("num_layers_in_last_pipeline_stage", 4),
        ("pipeline_model_parallel_layout", "Et|t*3"),
        ("gtp_remat_size", 2),
    ],
)
def test_sizes_of_objects_are_not_dropped(size: str, value: object) -> None:
    """F6: a mapping refused them, an object lost them without a word."""
    sizes = {"global_batch_size": 8, "micro_batch_size": 4, "seq_length": 16}
    given = SimpleNamespace(tensor_model_parallel_size=2, **{size: value})
    with pytest.raises(PlanError) as caught:
        Spec.from_parallelism({"language": given}, **sizes)
    (fault,) = caught.value.faults
    assert fault.path == ("module_parallelisms", "language", size)
    assert f"{size} is 1 or None, got " in fault.rule
    for harmless in (None, 1):
        setattr(given, size, harmless)
        assert Spec.from_parallelism({"language": given}, **sizes)


def test_a_lane_of_one_sample_is_nothing_to_warn_of() -> None:
    """F9: W003 fired on 19 of 21 published layouts."""
    text = "batch: {global_size: 64, micro_size: 8, seq_length: 2048}\nmodules:\n  language: {parallel: {dp: 8}}\n  images: {parallel: {dp: 8}}\n"
    assert compile_spec(parse_spec(text)).warnings == ()


# the report: (parallel, world, model, the code of the fault, what its remedy says)
NUMBERS = {
    "F10: least GPUs of tp 4, pp 2, ep 8": ("tp: 4, pp: 2, dp: 1, ep: 8", 8, "", "P007", "a multiple of 2, which takes a multiple of 16 ranks"),
    "F10: 405B on 16,384": ("tp: 8, cp: 16, pp: 16, dp: 4", 16_384, "", "P004", "write `dp: 8` on language (or leave that dp out)"),
    "F10: 46 layers on 4 stages": ("pp: 4", 4, "model: {family: gpt, num_layers: 46, hidden_size: 64, num_attention_heads: 4, vocab_size: 512, max_positions: 2048}", "M004", "`stages: [11, 12, 12, 11]`"),
    "too many lanes": ("tp: 2, dp: 8", 8, "", "P005", "`dp: 4` on language"),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_remedies_have_the_number(name: str) -> None:
    parallel, world, model, code, remedy = NUMBERS[name]
    head = "batch: {global_size: 64, micro_size: 8, seq_length: 2048}\nmodules:\n"
    text = f"{head}  language: {{parallel: {{{parallel}}}, {model}}}\n"
    (fault,) = refused(text, world)
    assert fault.code.name == code
    assert remedy in fault.remedy


@pytest.mark.parametrize(("written", "with_remedy"), [("dp: 4", "dp: 8"), ("dp: 4", "")])
def test_the_number_is_right(written: str, with_remedy: str) -> None:
    """F10, 405B: both remedies plan."""
    text = "batch: {global_size: 64, micro_size: 8, seq_length: 2048}\nmodules:\n  language: {parallel: {tp: 8, cp: 16, pp: 16, dp: 4}}\n"
    assert compile_spec(
        parse_spec(text.replace(f", {written}", f", {with_remedy}" if with_remedy else "")), world_size=16_384
    )
