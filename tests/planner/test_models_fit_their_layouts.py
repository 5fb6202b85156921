"""Law: a model fits its layout exactly if the sizes divide, and every size left out is filled in."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Batch, Fault, Model, Module, Output, Parallel, Plan, PlanError, Spec, compile_spec
from planner.spec.presets import PRESETS
from planner.testing.strategies import divisors
from tests.strategies import planned

GPT: dict[str, Any] = {
    "family": "gpt", "num_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 512,
    "max_positions": 4096
}  # fmt: skip
VIT: dict[str, Any] = {
    "family": "vit", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "image_size": 32, "patch_size": 8
}  # fmt: skip
AUDIO: dict[str, Any] = {
    "family": "audio", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "num_mel_bins": 80,
    "max_positions": 3000
}  # fmt: skip


def spec_of(
    model: dict[str, Any] | None = None,
    parallel: dict[str, Any] | None = None,
    seq_length: int = 4096,
    others: dict[str, Any] | None = None,
    **module: Any,
) -> Spec:
    """A spec of language with this model and layout, and of `others`, which are whole modules."""
    language = Module(model=model, parallel=parallel or {}, **module)
    batch = Batch(global_size=840, micro_size=840, seq_length=seq_length)
    return Spec(batch=batch, modules={"language": language, **(others or {})})


def faults_of(*args: Any, **kwargs: Any) -> list[Fault]:
    with pytest.raises(PlanError) as caught:
        compile_spec(spec_of(*args, **kwargs))
    return list(caught.value.faults)


def found(*args: Any, **kwargs: Any) -> list[tuple[str, str]]:
    """The code of every fault and the last keys of its path; empty if the spec plans."""
    try:
        planned(spec_of(*args, **kwargs))
    except PlanError as error:
        return [(fault.code.name, ".".join(map(str, fault.path[-2:]))) for fault in error.faults]
    return []


def language_of(plan: Plan) -> Model:
    return plan.module("language").model


# ---- presets and what is filled in


def test_presets_have_their_published_sizes() -> None:
    assert set(PRESETS) >= {"vicuna-7b", "clip-vit-l-14-336", "whisper-base"}
    vicuna = language_of(planned(spec_of({"preset": "vicuna-7b"})))
    assert (vicuna.num_layers, vicuna.hidden_size, vicuna.num_attention_heads, vicuna.ffn_hidden_size) == (
        32,
        4096,
        32,
        11008,
    )
    assert (vicuna.kv_channels, vicuna.num_query_groups, vicuna.vocab_size) == (128, 32, 32256)
    clip = PRESETS["clip-vit-l-14-336"]
    assert (clip.image_size // clip.patch_size) ** 2 == 576
    assert (clip.hidden_size, clip.num_attention_heads) == (1024, 16)
    whisper = PRESETS["whisper-base"]
    assert (whisper.hidden_size, whisper.num_attention_heads, whisper.num_layers) == (512, 8, 6)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_sizes_written_out(name: str) -> None:
    written = {key: value for key, value in attrs.asdict(PRESETS[name], recurse=False).items() if value is not None}
    others = {"images": Module(model={"preset": name}, parallel={})}
    by_name = planned(spec_of(others=others)).module("images").model
    by_sizes = planned(spec_of(others={"images": Module(model=written, parallel={})})).module("images").model
    assert attrs.evolve(by_name, preset=None) == by_sizes
    assert by_name.preset == name


def test_sizes_beside_a_preset_replace_its_own() -> None:
    plan = planned(spec_of({"preset": "vicuna-7b", "num_layers": 40, "num_query_groups": 8, "vocab_size": 64000}))
    model = language_of(plan)
    assert (model.num_layers, model.num_query_groups, model.vocab_size) == (40, 8, 64000)
    assert (model.hidden_size, model.ffn_hidden_size) == (4096, 11008)
    assert plan.digest != planned(spec_of({"preset": "vicuna-7b"})).digest


def test_an_unknown_preset_and_another_family_are_refused() -> None:
    assert found({"preset": "vicuna-13b"}) == [("S105", "model.preset")]
    assert found({"preset": "vicuna-7b", "family": "vit"}) == [("S107", "model.family")]
    assert found({"preset": "vicuna-7b", "family": "gpt"}) == []


def test_defaults_are_filled_in() -> None:
    model = language_of(planned(spec_of(GPT)))
    assert attrs.evolve(model, **dict.fromkeys(attrs.asdict(model), None)) == Model()
    filled = {key: value for key, value in attrs.asdict(model).items() if value is not None}
    assert filled == GPT | {
        "ffn_hidden_size": 256,
        "num_query_groups": 4,
        "kv_channels": 16,
        "normalization": "LayerNorm",
        "activation": "gelu",
        "gated_linear_unit": False,
        "add_bias_linear": True,
        "untie_embeddings_and_output_weights": False,
    }
    assert language_of(planned(spec_of(GPT | {"num_moe_experts": 4}))).moe_router_topk == 2
    images = planned(spec_of(others={"images": Module(model=VIT, parallel={})})).module("images").model
    assert images.untie_embeddings_and_output_weights is None
    assert images.vocab_size is images.max_positions is images.moe_router_topk is None


def test_written_sizes_are_kept() -> None:
    written = GPT | {
        "ffn_hidden_size": 96, "num_query_groups": 2, "kv_channels": 32, "normalization": "RMSNorm",
        "activation": "silu",
        "gated_linear_unit": True, "add_bias_linear": False, "untie_embeddings_and_output_weights": True,
        "num_moe_experts": 8, "moe_router_topk": 3,
    }  # fmt: skip
    model = language_of(planned(spec_of(written)))
    assert {key: value for key, value in attrs.asdict(model).items() if value is not None} == written


def test_equal_models_give_equal_plans_however_they_are_written() -> None:
    plan = planned(spec_of(GPT))
    written_out = attrs.asdict(language_of(plan))
    assert planned(spec_of(written_out)) == plan
    assert planned(spec_of(written_out)).digest == plan.digest


@pytest.mark.parametrize(("sizes", "family"), [(GPT, "gpt"), (VIT, "vit"), (AUDIO, "audio")])
def test_each_family_has_its_own_sizes(sizes: dict[str, Any], family: str) -> None:
    for name in sizes:
        if name == "family":
            continue
        faults = faults_of({key: value for key, value in sizes.items() if key != name})
        assert [(fault.code.name, fault.path[-1]) for fault in faults] == [("M001", "model")]
        assert f"{name} is missing" in faults[0].rule
        assert f"`{name}:`" in faults[0].remedy
    own = {
        "vocab_size": "gpt", "max_positions": "gpt audio", "image_size": "vit", "patch_size": "vit",
        "num_mel_bins": "audio",
        "num_moe_experts": "gpt", "moe_router_topk": "gpt", "projector_hidden_size": "vit audio",
    }  # fmt: skip
    for name, families in own.items():
        if family not in families.split():
            assert found(sizes | {name: 2}) == [("M002", f"model.{name}")]
    assert found(sizes | {"untie_embeddings_and_output_weights": True}) == (
        [] if family == "gpt" else [("M002", "model.untie_embeddings_and_output_weights")]
    )


@pytest.mark.parametrize("sizes", [VIT, AUDIO, {"preset": "clip-vit-l-14-336"}])
def test_the_language_model_reads_text(sizes: dict[str, Any]) -> None:
    assert found(sizes, seq_length=64) == [("S107", "language.model")]


def test_sizes_without_preset_or_family_are_refused() -> None:
    assert found({"num_layers": 2}) == [("M001", "language.model")]
    assert found({}) == [("M001", "language.model")]
    assert found(None) == []


def test_every_missing_and_foreign_size_is_reported() -> None:
    faults = faults_of({"family": "gpt", "num_layers": 2, "image_size": 8, "num_mel_bins": 80})
    assert [fault.code.name for fault in faults] == ["M001"] * 4 + ["M002"] * 2


# ---- divisibility, at both sides of every boundary


@pytest.mark.parametrize("tp", range(1, 14))
def test_heads_are_split_over_tp(tp: int) -> None:
    model = GPT | {"num_attention_heads": 12, "hidden_size": 48, "ffn_hidden_size": 12 * 11 * 13 * 7 * 5}
    found_ = found(model, {"tp": tp})
    assert (("M003", "parallel.tp") in found_) == (12 % tp != 0)
    assert bool(found_) == (12 % tp != 0)
    if 12 % tp:
        fault = faults_of(model, {"tp": tp})[0]
        assert f"num_attention_heads % tp = 12 % {tp} = 0, got {12 % tp}" in fault.rule
        assert "choose tp from 1, 2, 3, 4, 6, 12" in fault.remedy


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("tp", [1, 2, 3, 4, 6, 12])
def test_query_groups_are_split_or_replicated(groups: int, tp: int) -> None:
    """The query groups of 12 heads are split over tp, or replicated over it if there are fewer than tp."""
    model = GPT | {"num_attention_heads": 12, "hidden_size": 48, "ffn_hidden_size": 48, "num_query_groups": groups}
    fits = groups % tp == 0 or tp % groups == 0
    assert found(model, {"tp": tp}) == ([] if fits else [("M003", "parallel.tp")])


@pytest.mark.parametrize("groups", range(1, 14))
def test_query_groups_divide_the_heads(groups: int) -> None:
    model = GPT | {"num_attention_heads": 12, "hidden_size": 48, "num_query_groups": groups}
    assert found(model) == ([] if 12 % groups == 0 else [("M003", "model.num_query_groups")])


@pytest.mark.parametrize("pp", range(1, 14))
def test_layers_are_split_over_pp(pp: int) -> None:
    model = GPT | {"num_layers": 12}
    if 12 % pp:
        (fault,) = faults_of(model, {"pp": pp})
        assert (fault.code.name, fault.path[-1]) == ("M004", "pp")
        assert f"num_layers % pp = 12 % {pp} = 0, got {12 % pp}" in fault.rule
    else:
        assert planned(spec_of(model, {"pp": pp})).module("language").stages == (12 // pp,) * pp


@pytest.mark.parametrize(
    ("stages", "codes"),
    [
        ([3, 3, 4], []),
        ([10, 1, 1], ["M005"]),
        ([3, 3, 3], ["M005"]),
        ([5, 5], ["M005"]),
        ([2, 2, 3, 3], ["M005"]),
        ([], ["M005"]),
        ([8, 1, 1], []),
    ],
)
def test_stages_add_up(stages: list[int], codes: list[str]) -> None:
    model = GPT | {"num_layers": 10}  # 10 % 3 = 1: needs stages
    assert [code for code, _ in found(model, {"pp": 3}, stages=stages)] == codes
    if not codes:
        assert planned(spec_of(model, {"pp": 3}, stages=stages)).module("language").stages == tuple(stages)
    assert found(model, {"pp": 3}) == [("M004", "parallel.pp")]


def test_stages_need_no_model_but_one_entry_per_stage() -> None:
    assert planned(spec_of(None, {"pp": 2}, stages=[3, 5])).module("language").stages == (3, 5)
    assert found(None, {"pp": 2}, stages=[3, 5, 1]) == [("M005", "language.stages")]
    assert planned(spec_of(None, {"pp": 2})).module("language").stages is None


@pytest.mark.parametrize("ep", range(1, 9))
def test_experts_are_split_over_ep(ep: int) -> None:
    model = GPT | {"num_moe_experts": 6}
    assert found(model, {"dp": ep, "ep": ep}) == ([] if 6 % ep == 0 else [("M006", "parallel.ep")])
    if 6 % ep:
        (fault,) = faults_of(model, {"dp": ep, "ep": ep})
        assert f"num_moe_experts % ep = 6 % {ep} = 0, got {6 % ep}" in fault.rule
        assert "choose ep from 1, 2, 3, 6" in fault.remedy


def test_ep_needs_experts_and_topk_is_at_most_their_number() -> None:
    assert found(GPT, {"dp": 2, "ep": 2}) == [("M006", "parallel.ep")]
    assert found(GPT, {"dp": 2, "expt_tp": 2}) == []  # a warning: nobody uses the axis
    assert found(None, {"dp": 2, "ep": 2}) == []  # nothing is known of the model
    for topk in (1, 4, 5):
        assert found(GPT | {"num_moe_experts": 4, "moe_router_topk": topk}) == (
            [] if topk <= 4 else [("M006", "model.moe_router_topk")]
        )


def test_the_default_topk_suits_a_single_expert() -> None:
    """Users are not told to change a value that they did not write."""
    assert found(GPT | {"num_moe_experts": 1}) == []


@pytest.mark.parametrize("cp", range(1, 9))
@pytest.mark.parametrize("length", [48, 60])
def test_sequences_are_cut_in_two_chunks_per_cp(cp: int, length: int) -> None:
    fits = cp == 1 or length % (2 * cp) == 0
    assert found(None, {"cp": cp}, seq_length=length) == ([] if fits else [("M007", "parallel.cp")])
    images = Module(parallel={"cp": cp}, output=Output(tokens_per_sample=length))
    assert found(seq_length=64, others={"images": images}) == ([] if fits else [("M007", "parallel.cp")])
    varying = Module(parallel={"cp": cp})  # no length is known
    assert found(seq_length=64, others={"images": varying}) == []


def test_a_sequence_that_is_odd_suits_cp_1_only() -> None:
    assert found(None, {"cp": 1}, seq_length=63) == []
    assert found(None, {"cp": 3}, seq_length=63) == [("M007", "parallel.cp")]


@pytest.mark.parametrize("tp", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("cp", [1, 2])
def test_sequence_parallel_cuts_what_a_cp_rank_holds(tp: int, cp: int) -> None:
    parallel = {"tp": tp, "cp": cp}
    fits = (48 // cp) % tp == 0
    expected = [] if fits else [("M007", "parallel.sequence_parallel")]
    assert found(None, parallel | {"sequence_parallel": True}, seq_length=48) == expected
    assert found(None, parallel, seq_length=48) == []
    images = Module(parallel=parallel | {"sequence_parallel": True}, output=Output(tokens_per_sample=48))
    assert found(seq_length=64, others={"images": images}) == []  # it may hand on another length than it holds
    varying = Module(parallel=parallel | {"sequence_parallel": True})
    assert found(seq_length=64, others={"images": varying}) == []


@pytest.mark.parametrize("hidden", [47, 48, 49])
def test_hidden_size_is_whole_heads_unless_their_width_is_written(hidden: int) -> None:
    model = GPT | {"hidden_size": hidden, "num_attention_heads": 12}
    assert found(model) == ([] if hidden == 48 else [("M008", "model.hidden_size")])
    assert found(model | {"kv_channels": 16}) == []


def test_a_written_width_of_heads_is_free_even_where_it_is_that_of_the_quotient() -> None:
    """With hidden_size 49, a width of 4 for 12 heads is as free as one of 5."""
    model = GPT | {"hidden_size": 49, "num_attention_heads": 12}
    assert found(model | {"kv_channels": 5}) == []
    assert found(model | {"kv_channels": 4}) == []


@pytest.mark.parametrize("ffn", [96, 97, 98, 100])
def test_ffn_is_split_over_tp_and_for_experts_over_expt_tp(ffn: int) -> None:
    dense, experts = GPT | {"ffn_hidden_size": ffn}, GPT | {"ffn_hidden_size": ffn, "num_moe_experts": 4}
    assert found(dense, {"tp": 4}) == ([] if ffn % 4 == 0 else [("M008", "parallel.tp")])
    assert found(experts, {"tp": 4}) == []
    assert found(experts, {"tp": 4, "expt_tp": 4}) == ([] if ffn % 4 == 0 else [("M008", "parallel.expt_tp")])


@pytest.mark.parametrize("patch", [1, 7, 8, 16, 31, 32, 33, 64])
def test_an_image_is_whole_patches(patch: int) -> None:
    images = Module(model=VIT | {"patch_size": patch}, parallel={})
    assert found(others={"images": images}) == ([] if 32 % patch == 0 else [("M008", "model.patch_size")])


# ---- tokens


@pytest.mark.parametrize("seq_length", [99, 100, 101])
def test_tokens_of_encoders_fit_the_sequence(seq_length: int) -> None:
    others = {
        "images": Module(parallel={}, output=Output(tokens_per_sample=60)),
        "audio": Module(parallel={}, output=Output(tokens_per_sample=40)),
        "video": Module(parallel={}),  # varies, so nothing is known
    }
    if seq_length >= 100:
        assert found(seq_length=seq_length, others=others) == []
        return
    (fault,) = faults_of(seq_length=seq_length, others=others)
    assert (fault.code.name, fault.path) == ("M009", ("batch", "seq_length"))
    assert "images 60 + audio 40 = 100" in fault.rule
    assert "seq_length = 99" in fault.rule
    assert "above 100" in fault.remedy


def test_only_what_feeds_language_takes_its_positions() -> None:
    others = {
        "images": Module(parallel={}, output=Output(tokens_per_sample=50)),
        "resampler": Module(parallel={}, output=Output(tokens_per_sample=10)),
        "generator": Module(parallel={}, output=Output(tokens_per_sample=5000)),
    }
    topology = {"images": ("resampler",), "resampler": ("language",), "language": ("generator",)}
    spec = attrs.evolve(spec_of(seq_length=16, others=others), topology=topology)
    assert planned(spec).world_size == 4
    with pytest.raises(PlanError):
        planned(attrs.evolve(spec_of(seq_length=8, others=others), topology=topology))


@pytest.mark.parametrize("length", [4095, 4096, 4097])
def test_the_sequence_fits_the_models_positions(length: int) -> None:
    assert found(GPT, seq_length=length) == ([] if length <= 4096 else [("M009", "batch.seq_length")])


@pytest.mark.parametrize("token", [0, 511, 512, 2**24])
def test_special_tokens_are_of_the_vocabulary(token: int) -> None:
    others = {"images": Module(parallel={}, special_token_id=token)}
    assert found(GPT, others=others) == ([] if token < 512 else [("M010", "images.special_token_id")])
    assert found(None, others=others) == []  # the vocabulary is not known


def test_special_tokens_are_each_modules_own() -> None:
    others = {
        name: Module(parallel={}, special_token_id=token) for name, token in (("images", 5), ("audio", 5), ("video", 6))
    }
    faults = faults_of(GPT, others=others)
    assert [(fault.code.name, fault.path) for fault in faults] == [("M010", ("modules", "audio", "special_token_id"))]
    assert "images has 5" in faults[0].rule


# ---- all together


def test_all_faults_of_a_model_are_reported_together() -> None:
    model = GPT | {"num_layers": 5, "num_attention_heads": 3, "ffn_hidden_size": 65, "num_query_groups": 2}
    codes = [fault.code.name for fault in faults_of(model, {"tp": 2, "pp": 2, "cp": 3}, seq_length=100)]
    assert sorted(codes) == ["M003", "M003", "M004", "M007", "M008", "M008"]


def test_encoders_are_checked_as_language_is() -> None:
    for model in (VIT, AUDIO):
        for parallel, code in (({"tp": 8}, "M003"), ({"pp": 3}, "M004")):
            faults = faults_of(others={"images": Module(model=model, parallel=parallel)})
            assert [(fault.code.name, fault.path[1]) for fault in faults] == [(code, "images")]


@given(
    st.fixed_dictionaries({axis: st.integers(1, 4) for axis in ("tp", "cp", "pp")}),
    st.sampled_from([4, 6, 12]),
    st.sampled_from([4, 6, 9]),
    st.sampled_from([48, 64, 90]),
)
def test_a_model_plans_exactly_where_everything_divides(
    sizes: dict[str, int], heads: int, layers: int, length: int
) -> None:
    model = GPT | {
        "num_layers": layers,
        "num_attention_heads": heads,
        "hidden_size": 12 * heads,
        "ffn_hidden_size": 144,
    }
    expected = set()
    if sizes["tp"] not in divisors(heads):
        expected.add("M003")
    if sizes["pp"] not in divisors(layers):
        expected.add("M004")
    if sizes["cp"] > 1 and 2 * sizes["cp"] not in divisors(length):
        expected.add("M007")
    assert {code for code, _ in found(model, sizes, seq_length=length)} == expected


def test_without_parallelism_a_model_is_checked_on_one_rank() -> None:
    modules = {"language": Module(model=GPT)}
    plan = planned(Spec(batch=Batch(global_size=4, micro_size=4, seq_length=64), modules=modules))
    assert plan.world_size == 1
    assert plan.module("language").stages == (4,)
    assert Module(model=GPT).parallel is None
    assert Parallel().tp == 1
