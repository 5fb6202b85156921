"""Law: every formula equals an independent count: a published closed form, brute force, or one worked out by hand."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import (
    Batch,
    Cluster,
    Direction,
    Freeze,
    Model,
    Module,
    Output,
    Parallel,
    Plan,
    Spec,
    Training,
    compile_spec,
    load_spec,
)
from planner.cost.memory.memory import stage_memory, state_bytes, token_activations
from planner.cost.memory.peaks import position_at
from planner.cost.predict import predict
from planner.cost.simulation.durations import Durations
from planner.cost.simulation.schedule import schedule_of, warmup_at
from planner.cost.simulation.simulate import simulate
from planner.cost.timing.group_spans import span_of, spans_of
from planner.cost.timing.hardware import Hardware, hardware_text, known_hardware, load_hardware, parse_hardware
from planner.cost.timing.step_time import closed_form, step_seconds
from planner.cost.timing.timing import collective_seconds, matmul_seconds, rates_of, tile_operations
from planner.cost.timing.workload import durations_of, workload_of
from planner.cost.work import layers
from planner.cost.work.facts import facts_of_stage
from planner.cost.work.layers import shape_of
from planner.cost.work.ops import Collective, CollectiveOp, MatMul, share_moved
from planner.cost.work.parameters import Parameters
from planner.cost.work.settings import Settings
from planner.cost.work.stages import stage_work
from planner.cost.work.tokens import tokens_of
from planner.layout.ir import GroupKind
from planner.testing import PlanOf
from tests import EXAMPLES
from tests.strategies import Case, cases

PAPER = Settings(flash_attention=False, rotary=False, dropout=True, fused_loss=False, dummy_gradient=False)


def gpt(layers_: int = 4, hidden: int = 512, heads: int = 8, **changes: object) -> Model:
    sizes: dict[str, object] = {
        "family": "gpt", "num_layers": layers_, "hidden_size": hidden, "num_attention_heads": heads,
        "vocab_size": 5120, "max_positions": 4096,
    }  # fmt: skip
    return Model(**(sizes | changes))  # type: ignore[arg-type]


def one_module(model: Model, parallel: Parallel, *, recompute: str = "none", **changes: object) -> Plan:
    dp = parallel.dp or 1
    sizes = {"micro": 2 * dp, "num": 4, "seq": 1024, "distributed": False, **changes}
    return compile_spec(
        Spec(
            cluster=Cluster(gpus_per_node=8),
            batch=Batch(global_size=sizes["micro"] * sizes["num"], micro_size=sizes["micro"], seq_length=sizes["seq"]),  # type: ignore[operator,arg-type]
            modules={"language": Module(parallel=parallel, model=model, recompute=recompute)},
            training=Training(distributed_optimizer=bool(sizes["distributed"])),
        )
    )


# ---- activations: Korthikanti et al. 2022, equations 1 to 4


@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    hidden=st.sampled_from([512, 1024, 6144]),
    heads=st.sampled_from([8, 16, 64]),
    seq=st.sampled_from([512, 2048]),
    parallel_sequence=st.booleans(),
)
def test_activations_equal_the_papers_formulas(
    tp: int, hidden: int, heads: int, seq: int, parallel_sequence: bool
) -> None:
    plan = one_module(
        gpt(hidden=hidden, heads=heads),
        Parallel(tp=tp, dp=1, sequence_parallel=parallel_sequence and tp > 1),
        seq=seq,
    )
    (module,) = plan.modules
    shape = shape_of(module, tokens_of(plan, module), PAPER)
    split = tp if parallel_sequence else 1
    assert token_activations(shape, "none") == pytest.approx(
        hidden * (10 / split + 24 / tp + 5 * heads * seq / (hidden * tp))
    )
    assert token_activations(shape, "selective") == pytest.approx(hidden * (10 / split + 24 / tp))
    assert token_activations(shape, "full") == pytest.approx(2 * hidden / split)


def test_activations_of_llama_equal_the_hand_count(plan_of: PlanOf) -> None:
    """70B, one layer, tp 8 with sequence parallelism: 8h + 2(q+2k) + 2(q+k) + 2q + 6f + 4 heads, all over 8."""
    plan = plan_of(EXAMPLES / "llama70b_1024gpu.yaml")
    module = plan.module("language")
    shape = shape_of(module, tokens_of(plan, module), Settings())
    by_hand = (8 * 8192 + 2 * (8192 + 2048) + 2 * (8192 + 1024) + 2 * 8192 + 6 * 28672 + 4 * 64) / 8
    assert token_activations(shape, "none") == by_hand


# ---- states


@pytest.mark.parametrize(
    ("dtype", "optimizer", "distributed", "wanted"),
    [
        ("bf16", "adam", False, 18.0),
        ("bf16", "adam", True, 6 + 12 / 8),
        ("fp32", "adam", False, 16.0),
        ("bf16", "sgd", False, 10.0),
        ("fp32", "sgd", True, 8.0),
    ],
)
def test_bytes_per_parameter(dtype: str, optimizer: str, distributed: bool, wanted: float) -> None:
    plan = one_module(gpt(), Parallel(dp=8))
    plan = attrs.evolve(plan, training=Training(dtype=dtype, optimizer=optimizer, distributed_optimizer=distributed))
    assert state_bytes(plan, plan.modules[0], Parameters(dense=1000), Settings()) == 1000 * wanted


def test_experts_share_their_state_over_expt_dp_and_frozen_parts_have_none() -> None:
    plan = one_module(gpt(num_moe_experts=4), Parallel(dp=8, ep=4), distributed=True)
    (module,) = plan.modules
    assert state_bytes(plan, module, Parameters(experts=1000), Settings()) == 1000 * (6 + 12 / 2)
    assert state_bytes(plan, module, Parameters(frozen=1000), Settings()) == 2000


# ---- FLOPs


@given(layers_=st.sampled_from([2, 4]), hidden=st.sampled_from([256, 512]), tp=st.sampled_from([1, 2, 4]))
def test_flops_equal_narayanans_formula(layers_: int, hidden: int, tp: int) -> None:
    """96 B s l h^2 (1 + s/6h + V/16lh), Narayanan et al. 2021: full recomputation, no causal mask, V padded."""
    seq, samples = 1024, 2
    model = gpt(layers_, hidden, heads=4)
    plan = one_module(model, Parallel(tp=tp, dp=1), recompute="full", seq=seq)
    settings = attrs.evolve(PAPER)
    work = stage_work(plan, facts_of_stage(plan, plan.modules[0], 0, settings))
    vocab = -(-5120 // (128 * tp)) * 128 * tp
    wanted = 96 * samples * seq * layers_ * hidden**2 * (1 + seq / (6 * hidden) + vocab / (16 * layers_ * hidden))
    assert tp * (work.forward_flops + work.backward_flops) == pytest.approx(wanted)


def test_flash_attention_counts_half_under_a_causal_mask() -> None:
    plan = one_module(gpt(), Parallel(dp=1))
    (module,) = plan.modules
    shape = shape_of(module, tokens_of(plan, module), Settings())
    assert layers.core_flops(shape) == 4 * 2 * 1024**2 * 512 / 2
    assert layers.backward(shape, trains=True).core_flops == 2.5 * layers.core_flops(shape)


def _frozen(freeze: Freeze) -> Plan:
    spec = load_spec(EXAMPLES / "llava_8gpu.yaml")
    modules = {**spec.modules, "images": attrs.evolve(spec.modules["images"], freeze=freeze)}
    return compile_spec(attrs.evolve(spec, modules=modules))


def test_frozen_parts_cost_what_they_must() -> None:
    works = {
        name: stage_work(plan, facts_of_stage(plan, plan.module("images"), 0, Settings()))
        for name, plan in {
            "none": _frozen(Freeze()),
            "encoder": _frozen(Freeze(encoder=True)),
            "all": _frozen(Freeze(encoder=True, projection=True)),
        }.items()
    }
    assert works["all"].backward_flops == 0
    layers_, *others = works["encoder"].parts
    assert layers_.backward.flops == 0
    assert sum(part.backward.flops for part in others) > 0  # the projector trains
    assert 1.9 < works["none"].backward_flops / works["none"].forward_flops < 2.2
    assert len({work.forward_flops for work in works.values()}) == 1


def test_a_frozen_language_model_still_hands_gradients_back() -> None:
    """The gradients of its inputs are to reach the encoders: one of the two products of a backward pass."""
    spec = load_spec(EXAMPLES / "llava_8gpu.yaml")
    language = attrs.evolve(spec.modules["language"], freeze=Freeze(encoder=True, projection=True))
    images = spec.modules["images"]
    flows = compile_spec(attrs.evolve(spec, modules={"language": language, "images": images}))
    work = stage_work(flows, facts_of_stage(flows, flows.module("language"), 0, Settings()))
    assert 0.9 < work.backward_flops / work.forward_flops < 1.2


def test_a_gradient_is_asked_for_of_all_that_moves() -> None:
    """Between stages and modules, megatron-core sends gradients back even if all of a module is frozen.

    So a frozen encoder computes backward in all stages but its first. Modules on one grid send nothing, and skip it.
    """
    spec = load_spec(EXAMPLES / "llava_8gpu.yaml")
    still = {
        name: attrs.evolve(one, freeze=Freeze(encoder=True, projection=True)) for name, one in spec.modules.items()
    }
    axes = {"language": Parallel(dp=2), "images": Parallel(dp=2)}
    same = {name: attrs.evolve(one, parallel=axes[name]) for name, one in still.items()}
    plan = compile_spec(attrs.evolve(spec, cluster=None, modules=same, placement="colocated"))
    assert stage_work(plan, facts_of_stage(plan, plan.module("language"), 0, Settings())).backward_flops == 0
    axes["images"] = Parallel(dp=1, pp=23)
    apart = {name: attrs.evolve(one, parallel=axes[name]) for name, one in still.items()}
    plan = compile_spec(attrs.evolve(spec, cluster=None, modules=apart))
    assert stage_work(plan, facts_of_stage(plan, plan.module("language"), 0, Settings())).backward_flops > 0
    images = plan.module("images")
    first, second = (stage_work(plan, facts_of_stage(plan, images, stage, Settings())) for stage in (0, 1))
    assert first.backward_flops == 0
    assert second.backward_flops == pytest.approx(second.forward_flops, rel=0.2)
    held = [stage_memory(plan, facts_of_stage(plan, images, stage, Settings())).activations for stage in (0, 1)]
    assert held[1] > 3 * held[0]  # inputs are kept for their gradient, of several microbatches


@pytest.mark.parametrize(("tokens", "clips"), [(None, 1), (100, 1), (1500, 1), (2000, 2), (3000, 2)])
def test_a_sample_has_as_many_clips_as_its_tokens_need(tokens: int | None, clips: int) -> None:
    """Whisper makes 1,500 tokens of a clip, of which a projector may hand on fewer."""
    modules = {
        "language": Module(parallel=Parallel(dp=1), model=gpt()),
        "audio": Module(
            parallel=Parallel(dp=1), model=Model(preset="whisper-base"), output=Output(tokens_per_sample=tokens)
        ),
    }
    plan = compile_spec(Spec(batch=Batch(global_size=6, micro_size=3, seq_length=4096), modules=modules))
    found = tokens_of(plan, plan.module("audio"))
    assert (found.sequences, found.length, found.handed_on) == (3 * clips, 1500, tokens or 1500)


def test_encoder_flops_equal_a_hand_count(plan_of: PlanOf) -> None:
    """CLIP ViT-L/14-336, two samples a lane, tp 2: 577 positions, full attention, a projector of two layers."""
    plan = plan_of(EXAMPLES / "llava_8gpu.yaml")
    work = stage_work(plan, facts_of_stage(plan, plan.module("images"), 0, Settings()))
    rows, h, f = 2 * 577, 1024, 4096
    layer = 2 * rows * (4 * h * h + 2 * h * f) / 2 + 4 * 2 * 577**2 * h / 2
    patches = 2 * rows * 3 * 14**2 * h
    projector = 2 * (2 * 576) * (h * 4096 + 4096 * 4096) / 2
    assert work.forward_flops == pytest.approx(23 * layer + patches + projector)


# ---- traffic


@given(size=st.integers(1, 12))
def test_moved_bytes_equal_a_ring_played_out(size: int) -> None:
    """A ring all-gather hands on a block per step, a reduce-scatter does the reverse, and an all-reduce does both."""
    blocks = [{rank} for rank in range(size)]
    sent = 0
    for hop in range(size - 1):
        passed = [(rank - hop) % size for rank in range(size)]
        for rank in range(size):
            blocks[(rank + 1) % size].add(passed[rank])
        sent += 1
    assert all(len(held) == size for held in blocks)
    assert share_moved(CollectiveOp.ALL_GATHER, size) == pytest.approx(sent / size)
    assert share_moved(CollectiveOp.ALL_REDUCE, size) == pytest.approx(2 * sent / size)
    assert share_moved(CollectiveOp.RING, size) == sent


def test_tensor_traffic_with_and_without_sequence_parallelism() -> None:
    """Per layer 2 all-gathers and 2 reduce-scatters forward, 4 and 2 backward; without it 2 all-reduces each way."""
    for parallel, forward, backward in ((True, (2, 2), (4, 2)), (False, (2,), (2,))):
        plan = one_module(gpt(), Parallel(tp=4, dp=1, sequence_parallel=parallel))
        (module,) = plan.modules
        shape = shape_of(module, tokens_of(plan, module), Settings())
        assert tuple(each.count for each in layers.forward(shape).collectives) == forward
        assert tuple(each.count for each in layers.backward(shape, trains=True).collectives) == backward
        assert {each.num_bytes for each in layers.forward(shape).collectives} == {2 * 2048 * 512}


def test_ranks_that_share_a_query_group_gather_it() -> None:
    """With 8 heads in 2 groups, tp 4 gathers and keeps all heads; with 4 groups every rank has the keys of one."""
    plan = one_module(gpt(num_query_groups=2), Parallel(tp=4, dp=1, sequence_parallel=True))
    wide = one_module(gpt(num_query_groups=4), Parallel(tp=4, dp=1, sequence_parallel=True))
    shape, other = (shape_of(one.modules[0], tokens_of(one, one.modules[0]), Settings()) for one in (plan, wide))
    whole = 2 * 2048 * (512 + 2 * 128)
    forward, backward = layers.forward(shape), layers.backward(shape, trains=True)
    assert forward.collectives[-1] == Collective(GroupKind.TP, CollectiveOp.ALL_GATHER, whole)
    assert backward.collectives[-1] == Collective(GroupKind.TP, CollectiveOp.REDUCE_SCATTER, whole)
    assert layers.forward(other).collectives == forward.collectives[:-1]
    difference = 2 * (512 + 2 * 128) - 2 * (512 + 2 * 256) / 4
    assert token_activations(shape, "none") - token_activations(other, "none") == difference


def test_spans_equal_a_count_over_nodes(plan_of: PlanOf) -> None:
    plan = plan_of(EXAMPLES / "llama70b_1024gpu.yaml")
    for module in plan.modules:
        for kind, span in spans_of(plan, module.name).items():
            every = {span_of(ranks, 8) for ranks in plan.groups(module.name, kind)}
            assert span in every
            assert span.num_nodes == max(one.num_nodes for one in every)


def test_gradients_cross_nodes_where_their_groups_do(plan_of: PlanOf) -> None:
    plan = plan_of(EXAMPLES / "llama70b_1024gpu.yaml")
    links = {one.kind: one.link for one in predict(plan).stages[0].traffic}
    assert links == {"tp": "nvlink", "cp": "network", "dp_cp": "network", "pp": "network"}


# ---- time

RATES = rates_of(load_hardware("b200"))


@given(m=st.integers(1, 5000), k=st.integers(1, 5000), n=st.integers(1, 5000), count=st.integers(1, 64))
def test_matmuls_take_at_least_their_operations(m: int, k: int, n: int, count: int) -> None:
    matmul = MatMul(m, k, n, count)
    assert tile_operations(matmul, 148) >= matmul.flops * (1 - 1e-12)
    assert matmul_seconds(matmul, RATES) >= matmul.num_bytes / RATES.memory


def test_large_products_reach_the_constant_and_waves_are_whole() -> None:
    large = MatMul(16384, 8192, 16384)
    assert large.flops / matmul_seconds(large, RATES) == pytest.approx(RATES.flops, rel=0.03)
    full, one_more = MatMul(256, 4096, 128 * 148), MatMul(256, 4096, 128 * 148 + 1)
    assert tile_operations(one_more, 148) > 1.2 * tile_operations(full, 148)


def test_collectives_cost_steps_and_bytes() -> None:
    collective = Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, 1e9, count=3)
    inside = span_of(range(8), 8)
    assert collective_seconds(collective, inside, RATES) == pytest.approx(
        3 * (2 * 7 / 8 * 1e9 / RATES.nvlink + 7 * RATES.latency)
    )
    across = span_of(range(0, 64, 8), 8)  # one rank in each of eight nodes
    assert collective_seconds(collective, across, RATES) == pytest.approx(
        3 * (2 * 7 / 8 * 1e9 / RATES.network + 7 * RATES.latency)
    )
    assert collective_seconds(collective, span_of([3], 8), RATES) == 0


# ---- the pipeline


_SECONDS = st.integers(0, 9).map(float)


@given(
    passes=st.lists(st.tuples(_SECONDS, _SECONDS), min_size=1, max_size=6),
    slower=st.tuples(_SECONDS, _SECONDS),
    hop=st.integers(0, 4).map(float),
    num=st.integers(1, 12),
)
def test_the_closed_form_equals_the_simulation(
    passes: list[tuple[float, float]], slower: tuple[float, float], hop: float, num: int
) -> None:
    """The last stage is often drawn to be the slowest by nothing at all, so that the condition is tried at its edge."""
    *others, last = passes
    stages = [*others, (last[0] + slower[0], last[1] + slower[1])]
    plan = one_module(gpt(len(stages)), Parallel(pp=len(stages), dp=1), num=num)
    durations = Durations.of(plan, lambda stage, way: stages[stage.index][way is Direction.BACKWARD], lambda _: hop)
    slow_enough = all(sum(each) + hop <= sum(stages[-1]) for each in stages[:-1])
    known = closed_form(plan, durations)
    assert (known is not None) == slow_enough
    assert known is None or known == simulate(plan, durations).makespan


def test_a_step_is_its_simulated_pipeline_and_the_update(plan_of: PlanOf) -> None:
    """Fits and predictions agree, whether the step has a closed form (one module) or is simulated."""
    for name in ("llava_8gpu", "llava_8gpu_colocated", "vision_audio_64gpu"):
        plan = plan_of(EXAMPLES / f"{name}.yaml")
        prediction = predict(plan)
        assert prediction.timeline is not None
        assert prediction.pipeline_seconds == prediction.timeline.makespan
        assert prediction.bubble == pytest.approx(prediction.timeline.bubble)
        assert step_seconds(workload_of(plan), rates_of(prediction.hardware)) == prediction.step_seconds
    plan = one_module(gpt(8), Parallel(pp=4, dp=1), num=16)
    rates = rates_of(load_hardware("h100"))
    assert closed_form(plan, durations_of(workload_of(plan), rates)) is not None
    assert step_seconds(workload_of(plan), rates) == pytest.approx(predict(plan).step_seconds, rel=1e-12)


@given(cases(max_modules=4))
def test_memory_holds_the_microbatches_that_the_schedule_has_in_flight(case: Case) -> None:
    plan = case.plan()
    schedule = schedule_of(plan)
    for unit in schedule.units:
        for rank in unit.ranks:
            assert position_at(plan, rank) == unit.position
            assert warmup_at(plan, unit.position) == unit.num_warmup


# ---- memory


def test_microbatches_in_flight_follow_the_longest_path() -> None:
    """Audio (one stage) stands beside vision (four) before language (five), and holds nine microbatches."""
    images = Model(family="vit", num_layers=4, hidden_size=64, num_attention_heads=4, image_size=32, patch_size=8)
    audio = Model(family="audio", num_layers=2, hidden_size=64, num_attention_heads=4, num_mel_bins=8, max_positions=64)
    modules = {
        "language": Module(parallel=Parallel(pp=5, dp=1), model=gpt(5)),
        "images": Module(parallel=Parallel(pp=4, dp=1), model=images, output=Output(tensor_dims=2)),
        "audio": Module(parallel=Parallel(dp=1), model=audio, output=Output(tensor_dims=2)),
    }
    batch = Batch(global_size=40, micro_size=2, seq_length=512)
    plan = compile_spec(Spec(batch=batch, modules=modules))
    once = compile_spec(Spec(batch=attrs.evolve(batch, global_size=2), modules=modules))
    for name, stage, wanted in (("audio", 0, 9), ("images", 0, 9), ("images", 3, 6), ("language", 0, 5)):
        held = stage_memory(plan, facts_of_stage(plan, plan.module(name), stage, Settings())).activations
        single = stage_memory(once, facts_of_stage(once, once.module(name), stage, Settings())).activations
        assert held / single == pytest.approx(wanted)


# ---- hardware


@pytest.mark.parametrize("name", known_hardware())
def test_hardware_files_say_where_every_number_is_from(name: str) -> None:
    hardware = load_hardware(name)
    assert parse_hardware(hardware_text(hardware)) == hardware
    for field in attrs.fields_dict(Hardware):
        constant = getattr(hardware, field)
        if field not in ("name", "num_sms"):
            assert len(constant.source) > 10
            assert constant.source != "start"
    assert hardware.product_tflops.value < hardware.peak_tflops.value


def test_counting_is_done_once_per_kind_of_stage() -> None:
    work = workload_of(one_module(gpt(16), Parallel(pp=8, dp=1)))
    assert len({id(each) for each in work.works.values()}) == 3
    assert math.isclose(sum(each.parts[0].count for each in work.works.values()), 16)


def test_rings_that_change_rails_have_a_share_of_their_cards() -> None:
    """Over 16 nodes: with one rank a node, a ring keeps to its rail; eight use every card; two change cards."""
    for num_ranks, cards in ((1, 1.0), (2, 0.6), (8, 8.0)):
        ranks = [8 * node + at for node in range(16) for at in range(num_ranks)]
        assert span_of(ranks, 8).num_cards(0.3) == cards
