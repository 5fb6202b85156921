"""Law: what people really write wrong gets one fault, at its place, with the remedy that a colleague would give."""

# ruff: noqa: E501  tables of values

from __future__ import annotations

from typing import Any

import pytest

from planner import Fault, PlanError, compile_spec, load_spec, parse_spec
from planner.cli import main
from planner.passes.further import with_further_faults
from planner.spec.fields import fields_of
from planner.spec.names import NAMES
from planner.spec.sections import Batch, Cluster, Model, Module, Parallel, Training

SPEC = """schema: 1
cluster: {nodes: 1, gpus_per_node: 8, gpu: h100}
batch: {global_size: 64, micro_size: 8, seq_length: 2048}
modules:
  language: {parallel: {tp: 2, dp: 2}, model: {preset: vicuna-7b}}
  images:
    parallel: {dp: 4}
    model: {preset: clip-vit-l-14-336}
    output: {tokens_per_sample: 576}
    special_token_id: 31999
"""
LANGUAGE, IMAGES = "{tp: 2, dp: 2}", "parallel: {dp: 4}"
VICUNA = "model: {preset: vicuna-7b}"
GPT = "family: gpt, num_layers: 32, hidden_size: 4096, num_attention_heads: 32, vocab_size: 32000, max_positions: 2048"


def changed(*pairs: tuple[str, str]) -> str:
    text = SPEC
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def more(line: str) -> str:
    return f"{SPEC}{line}\n"


# what is written: (the text, line and column of the only fault, its code, words of the remedy)
WRONG: dict[str, tuple[str, str, str, str]] = {
    # a level too far out or in
    "freeze beside the modules": (more("  freeze: {encoder: true}"), "11:3", "S101", "indent it by one level more, under 'images'"),
    "freeze is true beside the modules": (more("  freeze: true"), "11:3", "S101", "indent it by one level more, under 'images'"),
    "tp beside parallel": (changed((IMAGES, "dp: 4")), "7:5", "S101", "write it under `parallel`"),
    "dtype at the top": (more("dtype: fp32"), "11:1", "S101", "write it under `training`"),
    "recompute at the top": (more("recompute: full"), "11:1", "S101", "write it under one of `modules`"),
    # names of other software
    "micro_batch_size": (changed(("micro_size", "micro_batch_size")), "3:26", "S101", "write `micro_size`, the samples of the whole model"),
    "global_batch_size": (changed(("global_size", "global_batch_size")), "3:9", "S101", "write `global_size`"),
    "seq_len": (changed(("seq_length", "seq_len")), "3:41", "S101", "write `seq_length`"),
    "gradient accumulation": (changed(("micro_size: 8", "micro_size: 8, gradient_accumulation_steps: 8")), "3:41", "S101", "it is global_size / micro_size"),
    "learning_rate": (more("training: {learning_rate: 0.001}"), "11:12", "S101", "write `lr`"),
    "bf16": (more("training: {bf16: true}"), "11:12", "S101", "write `training: {dtype: bf16"),
    "lora": (changed((VICUNA, "model: {preset: vicuna-7b, lora_rank: 16}")), "5:67", "S101", "not modelled: adapters"),
    "shared experts": (changed((VICUNA, "model: {preset: vicuna-7b, first_k_dense_replace: 3}")), "5:67", "S101", "not modelled: experts beside others"),
    "vpp": (changed((LANGUAGE, "{tp: 2, dp: 2, vpp: 2}")), "5:39", "S101", "not modelled: virtual pipeline stages"),
    "etp": (changed((LANGUAGE, "{tp: 2, dp: 2, etp: 2}")), "5:39", "S101", "write `expt_tp`"),
    "tensor_model_parallel_size": (changed((LANGUAGE, "{tensor_model_parallel_size: 2, dp: 2}")), "5:25", "S101", "write `tp`"),
    "tp_size": (changed((LANGUAGE, "{tp_size: 2, dp: 2}")), "5:25", "S101", "write `tp`"),
    "num_hidden_layers": (changed((VICUNA, f"model: {{{GPT.replace('num_layers', 'num_hidden_layers')}}}")), "5:61", "S101", "write `num_layers`"),
    "intermediate_size": (changed((VICUNA, f"model: {{intermediate_size: 11008, {GPT}}}")), "5:48", "S101", "write `ffn_hidden_size`"),
    "disable_bias_linear": (changed((VICUNA, "model: {preset: vicuna-7b, disable_bias_linear: true}")), "5:67", "S101", "write `add_bias_linear` with the opposite value"),
    "tie_word_embeddings": (changed((VICUNA, "model: {preset: vicuna-7b, tie_word_embeddings: false}")), "5:67", "S101", "write `untie_embeddings_and_output_weights` with the opposite value"),
    "swiglu": (changed((VICUNA, "model: {preset: vicuna-7b, swiglu: true}")), "5:67", "S101", "write `gated_linear_unit: true` and `activation: silu`"),
    "first stage": (changed((LANGUAGE, "{pp: 2, dp: 2, decoder_first_pipeline_num_layers: 15}")), "5:39", "S101", "write `stages: [...]` in the module"),
    "rope_theta": (changed((VICUNA, "model: {preset: vicuna-7b, rope_theta: 10000}")), "5:67", "S101", "it changes neither layout nor cost: leave it out"),
    # spelling
    "parallel": (changed(("language: {parallel", "language: {paralel")), "5:14", "S101", 'did you mean "parallel"?'),
    "batch": (changed(("batch:", "bacth:")), "3:1", "S101", 'did you mean "batch"?'),
    "global_size": (changed(("global_size", "globl_size")), "3:9", "S101", 'did you mean "global_size"?'),
    "capital preset": (changed(("vicuna-7b", "Vicuna-7B")), "5:48", "S105", 'did you mean "vicuna-7b"?'),
    "bfloat16": (more("training: {dtype: bfloat16}"), "11:12", "S105", 'did you mean "bf16"?'),
    "adamw": (more("training: {optimizer: adamw}"), "11:12", "S105", 'did you mean "adam"?'),
    "topology": (more("topology: {image: [language]}"), "11:12", "T002", 'did you mean "images"?'),
    # the language model has another name
    "llm": (changed(("  language:", "  llm:")), "5:3", "T001", "rename `llm` to `language`"),
    "lang": (changed(("  language:", "  lang:")), "5:3", "T001", "rename `lang` to `language`"),
    "Language": (changed(("  language:", "  Language:")), "5:3", "T001", "rename `Language` to `language`"),
    "vicuna": (changed(("  language:", "  vicuna:"), (VICUNA, f"model: {{{GPT}}}")), "5:3", "T001", "rename `vicuna` to `language`"),
    # numbers
    "micro_size of Megatron-LM": (changed(("micro_size: 8", "micro_size: 1")), "3:26", "B002", "write `micro_size: 4`, which is 1 per data-parallel rank of images"),
    "a global batch in parts": (changed(("global_size: 64", "global_size: 60")), "3:9", "B001", "use a multiple of 8, such as 64"),
    "text for a number": (changed((LANGUAGE, "{tp: '2', dp: 2}")), "5:25", "S103", "write an integer"),
    "a float": (changed((LANGUAGE, "{tp: 2.0, dp: 2}")), "5:25", "S103", "write an integer"),
    "a module that stands beside `modules`": (changed(("  images:\n", "images:\n")), "6:1", "S101", "indent it by one level more, under `modules`"),
    "model for modules": (changed(("modules:\n", "model:\n")), "4:1", "S101", "rename it to `modules`"),
    "kv_heads": (changed((VICUNA, f"model: {{{GPT}, kv_heads: 8}}")), "5:161", "S101", "write `num_query_groups`"),
    "gpus": (changed(("gpus_per_node: 8", "gpus: 8")), "2:21", "S101", "write `gpus_per_node`"),
    "a microbatch that is no lane's": (changed((LANGUAGE, "{tp: 1, dp: 4}"), ("micro_size: 8", "micro_size: 2")), "3:26", "B002", "`micro_size: 8`"),
    "idle ranks": (changed((LANGUAGE, "{tp: 2, dp: 1}")), "2:1", "P004", "write `dp: 2` on language (or leave that dp out)"),
    "too many ranks": (changed((LANGUAGE, "{tp: 4, dp: 2}")), "7:5", "P005", "use 4 more ranks, or smaller sizes"),
    "stages that do not add up": (changed((LANGUAGE, "{pp: 4}, stages: [8, 8, 8, 9]")), "5:33", "M005", "make the entries add up to 32"),
    "tokens beyond the sequence": (changed(("seq_length: 2048", "seq_length: 512")), "3:41", "M009", "raise seq_length above 576"),
    "experts of a dense model": (changed((LANGUAGE, "{tp: 2, dp: 2, ep: 2}")), "5:39", "M006", "remove ep, or add num_moe_experts"),
    # the rest
    "a cycle": (more("topology: {images: [language], language: [images]}"), "11:32", "T003", "remove one of these edges"),
    "a key twice": (changed((IMAGES, f"{IMAGES}\n    {IMAGES}")), "8:5", "S004", "remove one of the two"),
    "a tab": (changed(("  images:", "\timages:")), "6:1", "S003", "write spaces in place of the tab"),
    "a name for a model": (changed((VICUNA, "model: meta-llama/Llama-3-8B")), "5:40", "S103", "write a mapping with the keys preset, family"),
}  # fmt: skip


def faults_of(text: str) -> tuple[Fault, ...]:
    with pytest.raises(PlanError) as caught:
        compile_spec(parse_spec(text, "s.yaml"))
    return with_further_faults(caught.value).faults


def test_the_spec_itself_is_right() -> None:
    assert compile_spec(parse_spec(SPEC)).warnings == ()


@pytest.mark.parametrize("name", WRONG)
def test_one_slip_is_one_fault_with_the_right_remedy(name: str) -> None:
    text, place, code, remedy = WRONG[name]
    faults = faults_of(text)
    assert len(faults) == 1, [str(fault) for fault in faults]
    (fault,) = faults
    assert (str(fault.mark), str(fault.code)) == (f"s.yaml:{place}", code)
    assert remedy in fault.remedy


# Faults of all passes that do not follow from each other: (what is written, its codes)
SEVERAL: dict[str, tuple[str, list[str]]] = {
    "a key, layers, a topology, a batch": (
        changed((LANGUAGE, "{tpp: 2, dp: 1, pp: 3}"), (IMAGES, "parallel: {dp: 2}"), ("global_size: 64", "global_batch_size: 65")) + "topology: {image: [language]}\n",
        ["B001", "M004", "S101", "S101", "T002"],
    ),
    "a value of one module, layers of another": (
        changed((LANGUAGE, "{tp: 2, dp: 2, pp: 3}"), (IMAGES, "parallel: {tp: two}")),
        ["M004", "S103"],
    ),
    "a value of a module, and what follows from it": (
        changed((LANGUAGE, "{tp: 2, dp: 2, pp: three}"), ("global_size: 64", "global_size: 65")),
        ["B001", "S103"],
    ),
    "no sizes of the batch, a preset": (
        changed(("batch: {global_size: 64, micro_size: 8, seq_length: 2048}\n", "batch: {}\n"), ("vicuna-7b", "vicuna-7B")),
        ["S102", "S102", "S102", "S105"],
    ),
    "a key that was written too far left, a placement": (
        changed(("    special_token_id: 31999", "  freeze: true")) + "placement: colocated\ntraining: {lr: -1}\n",
        ["P004", "S101", "S104"],
    ),
    "a cluster, layers": (
        changed(("nodes: 1", "nodes: one"), (LANGUAGE, "{tp: 2, dp: 2, pp: 3}")),
        ["M004", "S103"],
    ),
    "a head, a width that follows": (
        changed((VICUNA, "model: {preset: vicuna-7b, hidden: 7}"), (IMAGES, "parallel: {dp: -4}")),
        ["M008", "S101", "S104"],
    ),
}  # fmt: skip


# A fault, and what a reader could take for more: (what is written, the codes of what is told)
FOLLOWING: dict[str, tuple[str, list[str]]] = {
    "GPUs per node in words": (changed(("gpus_per_node: 8", "gpus_per_node: eight")), ["S103"]),
    "a vocabulary in words, an id beside the preset's": (
        changed((VICUNA, "model: {preset: vicuna-7b, vocab_size: 200k}"), ("special_token_id: 31999", "special_token_id: 150000")),
        ["S103"],
    ),
    "freeze too far left, a topology and ranks": (
        changed(("    special_token_id: 31999", "  freeze: true"), (IMAGES, "parallel: {dp: 16}"), ("micro_size: 8", "micro_size: 16"))
        + "topology: {images: [languag]}\n",
        ["P005", "S101", "T002"],
    ),
    "below a misspelt section": (changed((LANGUAGE, "{tp: 2, dp: 2, pp: 3}"), ("language: {parallel", "language: {paralel")), ["M004", "P005", "P005", "S101"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWING)
def test_what_follows_is_not_told_and_nothing_else_is_lost(name: str) -> None:
    text, codes = FOLLOWING[name]
    faults = faults_of(text)
    assert sorted(str(fault.code) for fault in faults) == codes, [str(fault) for fault in faults]
    assert all(fault.mark and fault.mark.line > 1 for fault in faults)


@pytest.mark.parametrize("name", ["output", "model", "freeze", "stages", "parallel", "recompute"])
@pytest.mark.parametrize("wrong", ["{parallel: {tp: 1}}", "{stages: 5}", "{encoder: true, parallel: 3}", "5", "{}"])
def test_modules_may_be_named_as_keys_are(name: str, wrong: str) -> None:
    text = f"batch: {{global_size: 8, micro_size: x, seq_length: 64}}\nmodules:\n  language: {{}}\n  {name}: {wrong}\n"
    assert any(fault.path == ("batch", "micro_size") for fault in faults_of(text))


@pytest.mark.parametrize("name", SEVERAL)
def test_independent_faults_are_told_together(name: str) -> None:
    text, codes = SEVERAL[name]
    faults = faults_of(text)
    assert sorted(map(str, (fault.code for fault in faults))) == codes, [str(fault) for fault in faults]
    assert all(fault.mark for fault in faults)
    assert [(f.mark.line, f.mark.column) for f in faults if f.mark] == sorted(
        (f.mark.line, f.mark.column) for f in faults if f.mark
    )


def test_an_unknown_gpu_is_told_beside_them(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(changed(("gpu: h100", "gpu: h101"), (LANGUAGE, "{tpp: 2, dp: 2}")))
    assert main(["plan", str(path)]) == 1
    told = capsys.readouterr().err
    assert f"{path}:2:39: error[S105] cluster.gpu" in told
    assert f"{path}:5:25: error[S101]" in told
    assert main(["plan", str(path), "--gpu", "h100", "--world-size", "12"]) == 1
    told = capsys.readouterr().err
    assert told.count("error[") == 1


@pytest.mark.parametrize("hidden", [1, 7, 2**24])
def test_a_size_that_follows_from_another_is_told_where_the_model_is(hidden: int) -> None:
    text = changed((VICUNA, f"model: {{{GPT}}}".replace("hidden_size: 4096", f"hidden_size: {hidden}")))
    assert all(fault.mark and fault.mark.line == 5 for fault in faults_of(text))


def test_forty_are_tried() -> None:
    assert len(WRONG) >= 40


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Any) -> None:
    for path, said, remedy in (
        (tmp_path / "nope.yaml", "cannot be read: No such file", "check the name and the current folder"),
        (tmp_path, "cannot be read: Is a directory", "name a file in that folder"),
    ):
        with pytest.raises(PlanError) as caught:
            load_spec(path)
        (fault,) = caught.value.faults
        assert said in fault.rule
        assert fault.remedy == remedy


def test_the_table_of_names_names_keys() -> None:
    """Its equals here are keys, and no key of ours is taken for another's."""
    sections = {"parallel": Parallel, "training": Training}
    ours = {name for cls in (Batch, Cluster, Model, Module, Parallel, Training) for name, _, _ in fields_of(cls)}
    for name, carried in NAMES.items():
        section, _, key = carried.ours.rpartition(".")
        known = {field for field, _, _ in fields_of(sections[section])} if section else ours
        assert not carried.ours or key in known, name
        assert name not in ours, name
        assert name == name.lower()
