"""Law: the numbers of a whole step equal counts that share no code with them."""

from __future__ import annotations

import attrs
import pytest

from planner import Batch, Cluster, Model, Module, Output, Parallel, Plan, Spec, compile_spec
from planner.cost.predict import model_flops, predict
from planner.cost.timing.hardware import load_hardware
from planner.cost.timing.step_time import step_seconds
from planner.cost.timing.timing import rates_of
from planner.cost.timing.workload import durations_of, update_seconds, workload_of

RATES = rates_of(load_hardware("h100"))
GPT = Model(
    family="gpt", num_layers=4, hidden_size=256, num_attention_heads=4, vocab_size=1024, max_positions=1024
)  # fmt: skip
VIT = Model(family="vit", num_layers=2, hidden_size=64, num_attention_heads=4, image_size=32, patch_size=8)


def two_modules(
    language: Parallel,
    images: Parallel,
    placement: str = "disjoint",
    cluster: Cluster | None = None,
    model: Model = GPT,
    recompute: str = "none",
) -> Plan:
    output = Output(tensor_dims=2, tokens_per_sample=16)
    spec = Spec(
        cluster=cluster,
        batch=Batch(global_size=16, micro_size=8, seq_length=512),
        placement=placement,
        modules={
            "language": Module(parallel=language, model=model, recompute=recompute),
            "images": Module(parallel=images, model=VIT, output=output, recompute=recompute),
        },
    )
    return compile_spec(spec)


def test_ranks_of_several_modules_update_all_of_them() -> None:
    """They do so one after the other, as MimoOptimizer steps. Modules on ranks of their own update at the same time."""
    for placement, total in (("colocated", sum), ("disjoint", max)):
        plan = two_modules(Parallel(dp=2), Parallel(dp=2), placement)
        updates = update_seconds(workload_of(plan), RATES).values()
        assert predict(plan).update_seconds == total(updates)


def test_a_job_of_two_nodes_scales_out_whatever_its_groups_cross() -> None:
    """Two modules fill a node each. Nodes have eight GPUs if the spec does not say how many."""
    rates = load_hardware("a100")
    assert rates.scale_out.value > 1
    seconds = []
    for nodes in (Cluster(gpus_per_node=16), Cluster(gpus_per_node=8), None):
        plan = two_modules(Parallel(dp=8), Parallel(dp=8), cluster=nodes)
        seconds.append(max(durations_of(workload_of(plan), rates_of(rates)).passes.values()))
    assert seconds[1] == seconds[2] == pytest.approx(seconds[0] * rates.scale_out.value)


def test_hops_leave_the_node_where_neighbouring_stages_do() -> None:
    """Five stages of two ranks on nodes of four: the second and the fourth way between stages leave the node."""
    model = attrs.evolve(GPT, num_layers=5)
    spec = Spec(
        cluster=Cluster(gpus_per_node=4),
        batch=Batch(global_size=8, micro_size=4, seq_length=512),
        modules={"language": Module(parallel=Parallel(pp=5, tp=2), model=model)},
    )
    work = workload_of(compile_spec(spec))
    num_bytes = 4 * 512 * 256 * 2
    inside, between = num_bytes / RATES.nvlink + RATES.latency, num_bytes / RATES.network + RATES.latency
    hops = durations_of(work, RATES).hops
    assert list(hops.values()) == pytest.approx([inside, between, inside, between])
    assert step_seconds(work, RATES) == pytest.approx(predict(work.plan).step_seconds)


def test_model_flops_are_the_published_formula() -> None:
    """Narayanan et al. 2021, 3.2, without recomputation (72 for 96) and without the masked half of attention."""
    seq, hidden, num_layers, vocab = 512, 256, 4, 1024
    spec = Spec(
        batch=Batch(global_size=16, micro_size=8, seq_length=seq),
        modules={"language": Module(parallel=Parallel(), model=GPT)},
    )
    wanted = 72 * 16 * seq * num_layers * hidden**2 * (1 + seq / (12 * hidden) + vocab / (12 * num_layers * hidden))
    assert model_flops(compile_spec(spec)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "language",
    [
        Parallel(tp=4),
        Parallel(tp=4, sequence_parallel=True),
        Parallel(pp=2, dp=4),
        Parallel(cp=2, dp=2),
        Parallel(dp=4, ep=2),
        Parallel(tp=2, dp=2, ep=2, expt_tp=2),
    ],
)
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_model_flops_do_not_depend_on_the_layout(language: Parallel, recompute: str) -> None:
    """Nor on what every tp rank computes for itself: patches, routers, the padding of the vocabulary."""
    experts = attrs.evolve(GPT, num_moe_experts=4, moe_router_topk=2)
    model = experts if language.ep else GPT
    one = two_modules(Parallel(), Parallel(), model=model)
    other = two_modules(language, Parallel(tp=4, dp=2), model=model, recompute=recompute)
    assert model_flops(other) == pytest.approx(model_flops(one), rel=1e-12)
    found = predict(other)
    assert found.mfu == pytest.approx(
        model_flops(one) / found.step_seconds / other.world_size / (found.hardware.peak_tflops.value * 1e12)
    )
    assert found.tokens_per_second == pytest.approx(16 * 512 / found.step_seconds)


def test_four_modules_on_thousands_of_gpus_are_one_pipeline() -> None:
    """4,288 GPUs and 256 microbatches: encoders of several sizes and dp, one of them on language's first stage."""
    encoder = Model(
        family="vit", num_layers=24, hidden_size=1024, num_attention_heads=16, image_size=336, patch_size=14
    )  # fmt: skip
    language = attrs.evolve(GPT, num_layers=96, hidden_size=8192, num_attention_heads=64, max_positions=8192)
    output = Output(tensor_dims=2, tokens_per_sample=576)
    places = {
        "images": Parallel(tp=8, dp=24, rank_offset=0),
        "audio": Parallel(tp=2, dp=96, rank_offset=3072),
        "video": Parallel(tp=8, pp=4, dp=32, rank_offset=3264),
    }
    modules = {name: Module(parallel=parallel, model=encoder, output=output) for name, parallel in places.items()}
    modules["language"] = Module(parallel=Parallel(tp=8, pp=16, dp=24, rank_offset=0), model=language)
    plan = compile_spec(
        Spec(
            cluster=Cluster(gpus_per_node=8),
            batch=Batch(global_size=96 * 256, micro_size=96, seq_length=8192),
            modules=modules,
        )
    )
    found = predict(plan)
    assert (plan.world_size, plan.batch.num_microbatches) == (4288, 256)
    assert found.timeline is not None
    assert found.timeline.num_operations == 2 * 256 * (1 + 1 + 4 + 16)
    assert {str(unit) for unit in found.timeline.schedule.units if len(unit.stages) > 1} == {
        "images stage 0 + language stage 0"
    }
