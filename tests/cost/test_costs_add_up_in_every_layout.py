"""Law: in every layout the parts add up to the model, and what is meant to save memory never costs any."""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Axis, Batch, Cluster, Model, Module, Output, Parallel, Plan, Spec, Training, compile_spec, load_spec
from planner.cli import main
from planner.cost.memory.memory import WORKSPACE_BYTES, stage_memory
from planner.cost.memory.peaks import peaks, rank_memory
from planner.cost.predict import predict
from planner.cost.prediction import Prediction
from planner.cost.simulation.schedule import in_flight, warmup_at
from planner.cost.simulation.words import duration
from planner.cost.timing.hardware import hardware_text, load_hardware
from planner.cost.work.facts import facts_of_stage
from planner.cost.work.parameters import stage_parameters, summed_parameters
from planner.cost.work.settings import Settings
from planner.cost.work.stages import stage_work
from planner.render.costs import costs_text
from planner.render.style import Style
from planner.testing import PlanOf
from tests import DATA, EXAMPLES
from tests.strategies import Case, cases

SIZES = st.sampled_from([1, 2, 4])
MODELS = st.builds(
    Model,
    family=st.just("gpt"),
    num_layers=st.sampled_from([4, 8]),
    hidden_size=st.sampled_from([256, 512]),
    num_attention_heads=st.just(8),
    num_query_groups=st.sampled_from([4, 8]),
    vocab_size=st.just(4096),
    max_positions=st.just(1024),
    normalization=st.sampled_from(["RMSNorm", "LayerNorm"]),
    gated_linear_unit=st.booleans(),
    add_bias_linear=st.booleans(),
    untie_embeddings_and_output_weights=st.booleans(),
    num_moe_experts=st.sampled_from([None, 8]),
)


TINY = Model(
    family="gpt", num_layers=2, hidden_size=64, num_attention_heads=1, vocab_size=128, max_positions=512
)  # fmt: skip


def planned(model: Model, *, recompute: str = "none", distributed: bool = False, num: int = 8, **axes: object) -> Plan:
    parallel = Parallel(**({"dp": 1} | axes))  # type: ignore[arg-type]
    micro = 2 * (parallel.dp or 1)
    return compile_spec(
        Spec(
            batch=Batch(global_size=micro * num, micro_size=micro, seq_length=512),
            modules={"language": Module(parallel=parallel, model=model, recompute=recompute)},
            training=Training(distributed_optimizer=distributed),
        )
    )


def memory(plan: Plan, stage: int = 0) -> float:
    return stage_memory(plan, facts_of_stage(plan, plan.modules[0], stage, Settings())).total


def whole(plan: Plan) -> int:
    """Number of parameters of the undivided model."""
    (module,) = plan.modules
    alone = attrs.evolve(
        module, grid=planned(module.model or Model()).modules[0].grid, stages=(sum(module.stages or ()),)
    )
    return stage_parameters(alone, 0, 0).total


@given(model=MODELS, tp=SIZES, pp=SIZES)
def test_stages_of_one_rank_add_up_to_the_model(model: Model, tp: int, pp: int) -> None:
    """Stages of a pipeline repeat tied embeddings alone; tp ranks repeat what each holds whole (norms, biases)."""
    plan = planned(model, pp=pp)
    parts = sum(stage_parameters(plan.modules[0], stage, 0).total for stage in range(pp))
    tied = not model.untie_embeddings_and_output_weights and pp > 1
    assert parts == whole(plan) + (4096 * (model.hidden_size or 0) if tied else 0)
    split = planned(model, tp=tp)
    each = stage_parameters(split.modules[0], 0, 0)
    assert whole(plan) <= tp * each.total or tp == 1
    assert each.total <= whole(plan)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("name", ["language", "images", "audio"])
def test_what_sequence_parallelism_sums_is_what_tp_does_not_divide(name: str, stage: int) -> None:
    """A rank behind the first stage holds D / tp + W parameters, so the whole ones, W, follow from two values of tp.

    The last bias of a projection is whole as well, but its gradient is not one that sequence parallelism has to sum.
    """
    models = {
        "language": attrs.evolve(TINY, num_layers=3, num_attention_heads=2, vocab_size=4096),
        "images": Model(preset="clip-vit-l-14-336", num_layers=3),
        "audio": Model(preset="whisper-base", num_layers=3, projector_hidden_size=64),
    }
    modules = {one: Module(parallel=Parallel(pp=3, dp=1), model=model) for one, model in models.items()}
    module = compile_spec(Spec(batch=Batch(global_size=1, micro_size=1, seq_length=512), modules=modules)).module(name)
    halves = attrs.evolve(module, grid=attrs.evolve(module.grid, sizes=(2, *module.grid.sizes[1:])))
    whole = 2 * stage_parameters(halves, stage, 64).total - stage_parameters(module, stage, 64).total
    bias = 64 if stage == 2 and name != "language" else 0
    assert module.model is not None
    assert summed_parameters(module.model, 1, is_last=stage == 2) == whole - bias


@given(model=MODELS, dp=SIZES)
def test_experts_of_all_ranks_add_up_to_the_model(model: Model, dp: int) -> None:
    sparse = attrs.evolve(model, num_moe_experts=8)
    alone = stage_parameters(planned(sparse).modules[0], 0, 0)
    spread = stage_parameters(planned(sparse, dp=dp, ep=dp).modules[0], 0, 0)
    assert dp * spread.experts == alone.experts
    assert spread.dense == alone.dense


@given(model=MODELS, tp=SIZES, parallel=st.booleans())
def test_memory_falls_with_tp(model: Model, tp: int, parallel: bool) -> None:
    """For dense models, whose vocabulary is padded to the same size: tp does not divide experts."""
    dense = attrs.evolve(model, num_moe_experts=None)
    narrow = planned(dense, tp=tp, sequence_parallel=parallel and tp > 1)
    assert memory(planned(dense, tp=2 * tp, sequence_parallel=parallel)) < memory(narrow)


@given(model=MODELS, tp=SIZES, pp=SIZES, num=st.sampled_from([1, 8]))
def test_recomputation_never_adds_memory_and_never_saves_time(model: Model, tp: int, pp: int, num: int) -> None:
    none, selective, full = (
        planned(model, tp=tp, pp=pp, num=num, recompute=how) for how in ("none", "selective", "full")
    )
    assert memory(full) <= memory(selective) <= memory(none)
    flops = [
        stage_work(plan, facts_of_stage(plan, plan.modules[0], 0, Settings())).backward_flops
        for plan in (none, selective, full)
    ]
    assert flops == sorted(flops)
    assert predict(none).model_flops == pytest.approx(predict(full).model_flops)
    assert predict(full).step_seconds >= predict(none).step_seconds


@given(model=MODELS, tp=st.sampled_from([2, 4]), dp=st.sampled_from([2, 4]))
def test_sequence_parallelism_and_shared_states_never_add_memory(model: Model, tp: int, dp: int) -> None:
    plain = planned(model, tp=tp, dp=dp)
    assert memory(planned(model, tp=tp, dp=dp, sequence_parallel=True)) < memory(plain)
    assert memory(planned(model, tp=tp, dp=dp, distributed=True)) < memory(plain)


@given(model=MODELS, pp=st.sampled_from([2, 4]))
def test_earlier_stages_hold_more_microbatches(model: Model, pp: int) -> None:
    plan = planned(model, pp=pp)
    held = [
        stage_memory(plan, facts_of_stage(plan, plan.modules[0], stage, Settings())).activations for stage in range(pp)
    ]
    assert held == sorted(held, reverse=True)
    assert held[0] == pytest.approx(pp * held[-1])


@given(model=MODELS, tp=SIZES, pp=SIZES, dp=SIZES)
def test_no_more_is_reached_than_the_gpu_has(model: Model, tp: int, pp: int, dp: int) -> None:
    prediction = predict(planned(model, tp=tp, pp=pp, dp=dp))
    assert 0 < prediction.mfu < prediction.hardware.product_tflops.value / prediction.hardware.peak_tflops.value
    assert 0 <= prediction.bubble < 1
    assert prediction.step_seconds >= prediction.update_seconds


SIZED = [path.stem for path in sorted(EXAMPLES.glob("*.yaml")) if "model:" in path.read_text()]


@pytest.mark.parametrize("name", SIZED)
def test_examples_predict_at_80_columns_and_as_json(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = str(EXAMPLES / f"{name}.yaml")
    assert main(["predict", path]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert main(["predict", path, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["step_seconds"] == pytest.approx(document["pipeline_seconds"] + document["update_seconds"])
    assert len(document["stages"]) == sum(module.num_stages for module in compile_spec(load_spec(path)).modules)


def test_what_does_not_fit_comes_with_what_would(plan_of: PlanOf) -> None:
    fitting = plan_of(EXAMPLES / "llama70b_1024gpu.yaml")
    modules = [attrs.evolve(one, recompute="none") if one.is_language else one for one in fitting.modules]
    plan = attrs.evolve(fitting, modules=tuple(modules))
    assert predict(fitting).fits
    prediction = predict(plan)
    assert not prediction.fits
    remedy = prediction.remedies[0]
    assert remedy.startswith("recompute: full on language saves ")
    peak = prediction.peaks[0]
    saved = peak.memory.total - rank_memory(fitting, peak.rank, Settings()).total
    assert f"{saved / 2**30:.1f} GiB" in remedy


def written(plan: Plan, remedy: str) -> Plan:
    """The plan that a remedy leads to: its changes are written into the spec, which is compiled with every check."""
    spec = plan.to_spec()
    for change in remedy.partition(" saves ")[0].replace(" with ", " and ").split(" and "):
        key, value, *module = change.replace(": ", " ").replace(" on ", " ").split()
        section, _, name = key.rpartition(".")
        changes = {name: {"true": True}.get(value) or (int(value) if value.isdigit() else value)}
        if not module:
            spec = attrs.evolve(spec, **{section: attrs.evolve(getattr(spec, section), **changes)})
            continue
        one = spec.modules[module[0]]
        if name == "sequence_parallel":
            changes = {"parallel": attrs.evolve(one.parallel, **changes)}
        spec = attrs.evolve(spec, modules=dict(spec.modules) | {module[0]: attrs.evolve(one, **changes)})
    return compile_spec(spec)


@pytest.mark.parametrize("gib", [12, 24, 40, 60, 79])
@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.yaml"))])
def test_remedies_do_what_they_say(name: str, gib: int, plan_of: PlanOf) -> None:
    """Written into the spec, a remedy saves what it says and fits if it says so, on every rank of the module."""
    plan, gpu = plan_of(EXAMPLES / f"{name}.yaml"), load_hardware("h100")
    gpu = attrs.evolve(gpu, memory_gib=attrs.evolve(gpu.memory_gib, value=gib))
    before = predict(plan, gpu)
    for remedy in before.remedies:
        saved, rank = re.findall(r"saves ([\d.]+) GiB on rank (\d+), ", remedy)[0]
        after = predict(written(plan, remedy), gpu)
        kept = (
            rank_memory(plan, int(rank), Settings()).total
            - rank_memory(written(plan, remedy), int(rank), Settings()).total
        )
        assert f"{kept / 2**30:.1f}" == saved
        modules = [peak.module for peak in before.peaks if peak.rank == int(rank) and before.spare(peak) < 0]
        rest = max(-after.spare(peak) for peak in after.peaks if peak.module in modules)
        assert ("which fits" in remedy) == (rest <= 0)
        if price := re.findall(r"; a step takes (.*)", remedy):
            assert price == [duration(after.step_seconds)]
        still = re.findall(r"still ([\d.]+) GiB too much", remedy)
        assert rest <= 0 or 0 <= float(still[0]) - rest / 2**30 < 0.1 + 1e-9


def test_a_little_too_much_is_not_nothing(plan_of: PlanOf) -> None:
    """A peak 40 MiB over the limit, and one that is 40 MiB over it after a remedy."""
    plan, gpu = plan_of(EXAMPLES / "llava_8gpu.yaml"), load_hardware("h100")

    def tight(num_bytes: float) -> Prediction:
        limit = attrs.evolve(gpu.memory_gib, value=num_bytes / 2**30 - 0.04)
        return predict(plan, attrs.evolve(gpu, memory_gib=limit))

    worst = predict(plan, gpu).worst
    found = tight(worst.total)
    assert " -0.04 " in costs_text(found, "spec.yaml", Style(width=80))
    after = predict(written(plan, found.remedies[0]), gpu)
    (rest,) = (peak.total for peak in after.peaks if peak.module == worst.module)
    change = found.remedies[0].partition(" saves ")[0]
    (line,) = (line for line in tight(rest).remedies if line.startswith(f"{change} saves "))
    assert line.endswith("still 0.1 GiB too much")


def test_no_remedy_is_one_that_the_spec_may_not_have() -> None:
    """Here tp divides neither language's sequence nor the encoder's, which a class token makes one longer."""
    model = attrs.evolve(TINY, num_attention_heads=2, hidden_size=4096)
    batch = Batch(global_size=4, micro_size=1, seq_length=511)
    module = Module(parallel=Parallel(tp=2, dp=1), model=model)
    images = Module(parallel=Parallel(tp=2, dp=1), model=Model(preset="clip-vit-l-14-336"))
    plan = compile_spec(Spec(batch=batch, modules={"language": module, "images": images}))
    gpu = load_hardware("h100")
    none = predict(plan, attrs.evolve(gpu, memory_gib=attrs.evolve(gpu.memory_gib, value=0.001)))
    assert {peak.module for peak in none.peaks if none.spare(peak) < 0} == {"language", "images"}
    assert none.remedies
    assert not any("sequence_parallel" in line for line in none.remedies)


def test_every_rank_of_a_stage_needs_what_its_peak_says(plan_of: PlanOf) -> None:
    """The peak is that of the rank, which is the sum of its colocated modules, and not that of one module."""
    plan = plan_of(EXAMPLES / "llava_8gpu_colocated.yaml")
    both = [
        stage_memory(plan, facts_of_stage(plan, module, module.grid.coord(0, Axis.PP), Settings())).total
        for module in plan.modules
    ]
    assert {peak.memory.total for peak in predict(plan).peaks} == {sum(both) + 2 * WORKSPACE_BYTES}


@given(cases(max_modules=4), st.booleans())
def test_a_peak_is_that_of_the_fullest_rank(case: Case, deepest_first: bool) -> None:
    """Every rank of a module is looked at, for any order of its axes and any modules that share its ranks."""
    (filled,) = planned(TINY).modules
    plan = case.plan()
    modules = []
    for module in plan.modules:
        counts = range(1, module.num_stages + 1)
        stages = tuple(sorted(counts, reverse=deepest_first))
        modules.append(attrs.evolve(module, model=filled.model, stages=stages))
    plan = attrs.evolve(plan, modules=tuple(modules))
    needed = [rank_memory(plan, rank, Settings()).total for rank in range(plan.world_size)]
    for peak in peaks(plan, Settings()):
        ranks = plan.module(peak.module).ranks
        assert peak.memory.total == max(needed[rank] for rank in ranks)
        assert peak.rank == next(rank for rank in ranks if needed[rank] == peak.memory.total)


def test_experts_share_one_placeholder_for_their_gradients() -> None:
    """The placeholder has the shape of one expert, 3 h f values; attention has one of 4 h h."""
    model = Model(family="gpt", num_layers=4, hidden_size=256, num_attention_heads=8, vocab_size=4096,
                  max_positions=1024, gated_linear_unit=True, num_moe_experts=8)  # fmt: skip
    (module,) = planned(model).modules
    assert stage_memory(planned(model), facts_of_stage(planned(model), module, 0, Settings())).buffers == 2 * (
        4 * 256**2 + 3 * 256 * 1024
    )


def test_what_comes_over_bridges_is_held(plan_of: PlanOf) -> None:
    """A lane holds two samples of 576 tokens of 4096 values for two microbatches each, and a gradient to send back."""
    plan = plan_of(EXAMPLES / "llava_8gpu.yaml")
    plain = Settings(dummy_gradient=False)
    language, images = plan.module("language"), plan.module("images")
    rows, samples = 2 * 576 * 4096, plan.batch.samples_per_lane
    hop = 2 * 2 * samples["language"] * 4096 * 4096
    held = in_flight(warmup_at(plan, 1), plan.batch.num_microbatches)
    assert held == 2
    assert (
        stage_memory(plan, facts_of_stage(plan, language, 0, plain)).buffers == held * rows * samples["language"] + hop
    )
    assert stage_memory(plan, facts_of_stage(plan, language, 1, plain)).buffers == hop
    assert stage_memory(plan, facts_of_stage(plan, images, 0, plain)).buffers == rows * samples["images"]


def test_logits_are_held_as_long_as_their_microbatch() -> None:
    """With a generator behind it, language's last stage has two microbatches in flight and holds the logits of both."""
    language = Module(parallel=Parallel(dp=1), model=TINY)
    modules = {"language": language, "pictures": attrs.evolve(language, output=Output(tokens_per_sample=512))}
    batch = Batch(global_size=16, micro_size=2, seq_length=512)
    plan = compile_spec(Spec(batch=batch, modules=modules, topology={"language": ("pictures",)}))
    kept = [stage_memory(plan, facts_of_stage(plan, module, 0, Settings())).logits for module in plan.modules]
    assert kept == [(2 * 4 + 2) * 2 * 512 * 128, (4 + 2) * 2 * 512 * 128]


@pytest.mark.parametrize(
    ("dtype", "is_fused", "bytes_each"), [("bf16", False, 4 + 2), ("bf16", True, 2 + 2), ("fp32", False, 4)]
)
def test_the_softmax_takes_the_place_of_logits_in_fp32(dtype: str, is_fused: bool, bytes_each: int) -> None:
    """megatron-core's cross entropy computes it in place from `logits.float()`, which is a copy only of bf16 logits."""
    plan = planned(TINY)
    plan = attrs.evolve(plan, training=attrs.evolve(plan.training, dtype=dtype))
    found = stage_memory(plan, facts_of_stage(plan, plan.modules[0], 0, Settings(fused_loss=is_fused))).logits
    assert found == bytes_each * 128 * plan.batch_sizes.micro_size * plan.batch_sizes.seq_length


def test_4096_gpus_and_256_microbatches_have_no_more_operations_than_stages_and_microbatches() -> None:
    language = Module(parallel=Parallel(tp=8, pp=32, dp=8), model=Model(preset="vicuna-7b"))
    images = Module(
        parallel=Parallel(tp=8, dp=256),
        model=Model(preset="clip-vit-l-14-336"),
        output=Output(tensor_dims=2, tokens_per_sample=576),
    )
    plan = compile_spec(
        Spec(
            cluster=Cluster(gpus_per_node=8, gpu="h100"),
            batch=Batch(global_size=256 * 256, micro_size=256, seq_length=4096),
            modules={"language": language, "images": images},
        )
    )
    assert (plan.world_size, plan.batch.num_microbatches) == (4096, 256)
    prediction = predict(plan)
    assert prediction.timeline is not None
    assert prediction.timeline.num_operations == 2 * 256 * 33


def test_a_users_hardware_is_predicted_for_or_its_faults_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = str(EXAMPLES / "llava_8gpu.yaml")
    slow = tmp_path / "slow.yaml"
    text = hardware_text(load_hardware("h100"))
    slower = text.replace('name: "h100"', "name: slow").replace(
        "product_tflops: {value: 792", "product_tflops: {value: 79"
    )
    slow.write_text(slower)
    assert main(["predict", spec, "--gpu", str(slow)]) == 0
    assert "ranks of slow" in capsys.readouterr().out
    slow.write_text(text.replace("hop_us", "hop_us_"))
    assert main(["predict", spec, "--gpu", str(slow)]) == 1
    error = capsys.readouterr().err
    assert f"{slow}:" in error
    assert "did you mean" in error
    assert main(["predict", spec, "--gpu", "h10"]) == 1
    assert 'did you mean "h100"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["predict"], ["predict", "a", "--csv", "b"], ["predict", "--csv", "b", "--json"]]
)
def test_misuse_exits_2_with_a_message(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("mimo: ")


def test_calibrate_writes_a_file_that_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = DATA / "runs" / "b200_llama_given.csv"
    out = tmp_path / "mine.yaml"
    assert main(["calibrate", str(runs), "-o", str(out)]) == 0
    assert "mean error" in capsys.readouterr().err
    assert load_hardware(str(out)).product_tflops.value == pytest.approx(
        load_hardware("b200").product_tflops.value, rel=0.02
    )
