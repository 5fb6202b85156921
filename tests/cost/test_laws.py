"""Laws that hold for every layout: parts add up to the model, and what saves memory never adds any."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Axis, Batch, Cluster, Model, Module, Output, Parallel, Plan, Spec, Training, compile_spec, load_spec
from planner.cli import main
from planner.cost.hardware import hardware_text, load_hardware
from planner.cost.memory import stage_memory
from planner.cost.predict import predict
from planner.cost.settings import Settings
from planner.cost.sizes import stage_parameters
from planner.cost.stages import stage_work

EXAMPLES = Path(__file__).parents[2] / "examples"
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
    return stage_memory(plan, plan.modules[0], stage, Settings()).total


def whole(plan: Plan) -> int:
    """Parameters of the undivided model: divided ones of all ranks, and whole ones of one."""
    (module,) = plan.modules
    alone = attrs.evolve(
        module, grid=planned(module.model or Model()).modules[0].grid, stages=(sum(module.stages or ()),)
    )
    return stage_parameters(alone, 0, 0).total


@given(model=MODELS, tp=SIZES, pp=SIZES)
def test_stages_of_one_rank_add_up_to_the_model(model: Model, tp: int, pp: int) -> None:
    """Over pp nothing is repeated but tied embeddings; over tp what each rank holds whole (norms, biases)."""
    plan = planned(model, pp=pp)
    parts = sum(stage_parameters(plan.modules[0], stage, 0).total for stage in range(pp))
    tied = not model.untie_embeddings_and_output_weights and pp > 1
    assert parts == whole(plan) + (4096 * (model.hidden_size or 0) if tied else 0)
    split = planned(model, tp=tp)
    each = stage_parameters(split.modules[0], 0, 0)
    assert whole(plan) <= tp * each.total or tp == 1
    assert each.total <= whole(plan)


@given(model=MODELS, dp=SIZES)
def test_experts_of_all_ranks_add_up_to_the_model(model: Model, dp: int) -> None:
    sparse = attrs.evolve(model, num_moe_experts=8)
    alone = stage_parameters(planned(sparse).modules[0], 0, 0)
    spread = stage_parameters(planned(sparse, dp=dp, ep=dp).modules[0], 0, 0)
    assert dp * spread.experts == alone.experts
    assert spread.dense == alone.dense


@given(model=MODELS, tp=SIZES, parallel=st.booleans())
def test_memory_falls_with_tp(model: Model, tp: int, parallel: bool) -> None:
    """Dense models: experts are not divided by tp, and the vocabulary's padding does not grow here."""
    dense = attrs.evolve(model, num_moe_experts=None)
    narrow = planned(dense, tp=tp, sequence_parallel=parallel and tp > 1)
    assert memory(planned(dense, tp=2 * tp, sequence_parallel=parallel)) < memory(narrow)


@given(model=MODELS, tp=SIZES, pp=SIZES, num=st.sampled_from([1, 8]))
def test_recomputation_never_adds_memory_and_never_saves_time(model: Model, tp: int, pp: int, num: int) -> None:
    none, selective, full = (
        planned(model, tp=tp, pp=pp, num=num, recompute=how) for how in ("none", "selective", "full")
    )
    assert memory(full) <= memory(selective) <= memory(none)
    flops = [stage_work(plan, plan.modules[0], 0, Settings()).backward_flops for plan in (none, selective, full)]
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
    held = [stage_memory(plan, plan.modules[0], stage, Settings()).activations for stage in range(pp)]
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


def test_what_does_not_fit_comes_with_what_would() -> None:
    plan = compile_spec(load_spec(EXAMPLES / "llama70b_1024gpu.yaml"))
    prediction = predict(plan)
    assert not prediction.fits
    (remedy,) = prediction.remedies
    assert remedy.startswith("recompute: full on language saves ")
    peak = prediction.peaks[0]
    module = plan.module("language")
    full = stage_memory(plan, attrs.evolve(module, recompute="full"), peak.stage, Settings())
    assert f"{(peak.memory.total - full.total) / 2**30:.1f} GiB" in remedy


def test_every_rank_of_a_stage_needs_what_its_peak_says() -> None:
    """Colocated modules add up: the peak is that of the rank, not of one module."""
    plan = compile_spec(load_spec(EXAMPLES / "llava_8gpu_colocated.yaml"))
    both = [stage_memory(plan, module, module.grid.coord(0, Axis.PP), Settings()).total for module in plan.modules]
    assert {peak.memory.total for peak in predict(plan).peaks} == {sum(both)}


def test_a_prediction_for_1024_gpus_is_quick() -> None:
    plan = compile_spec(load_spec(EXAMPLES / "llama70b_1024gpu.yaml"))
    begun = perf_counter()
    predict(plan)
    assert perf_counter() - begun < 0.5


def test_a_prediction_for_4096_gpus_and_256_microbatches_is_quick() -> None:
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
    begun = perf_counter()
    prediction = predict(plan)
    assert perf_counter() - begun < 5
    assert prediction.timeline is not None
    assert prediction.timeline.num_operations == 2 * 256 * 33


def test_own_hardware_and_faults_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_misuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("mimo: ")


def test_calibrate_writes_a_file_that_predicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = Path(__file__).parents[1] / "data" / "runs" / "b200_llama_given.csv"
    out = tmp_path / "mine.yaml"
    assert main(["calibrate", str(runs), "-o", str(out)]) == 0
    assert "mean error" in capsys.readouterr().err
    assert load_hardware(str(out)).product_tflops.value == pytest.approx(
        load_hardware("b200").product_tflops.value, rel=0.02
    )
