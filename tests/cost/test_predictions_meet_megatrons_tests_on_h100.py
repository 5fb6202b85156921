"""Predictions against what Megatron-LM's own regression tests measured on a node of eight H100, with nothing fitted.

The numbers are from tests/functional_tests/test_cases of NVIDIA/Megatron-LM. Each test there has its arguments in
model_config.yaml, and in golden_values_dev_dgx_h100.json its `iteration-time` and, for the last rank,
`mem-allocated-bytes` and `mem-max-allocated-bytes`. Most of the times are of no use here: they measure kernels that
were chosen to be deterministic, dropout, or tiny layers.

The peaks of gpt/ are those of tests whose arguments settle which attention ran, or whose memory does, since the scores
of 8,192 tokens would not fit. All of them have bf16, learned positions, biases, GELU and LayerNorm, and fuse neither
the loss nor the accumulation of gradients.
"""

from __future__ import annotations

import attrs
import pytest

from planner import Batch, Cluster, Freeze, Model, Module, Output, Parallel, Plan, Spec, Training, compile_spec
from planner.cost.memory.peaks import rank_memory
from planner.cost.predict import predict
from planner.cost.work.settings import Settings

PLAIN = Settings(rotary=False, dropout=True, dummy_gradient=False)
UNFUSED = attrs.evolve(PLAIN, flash_attention=False)
SMALL = Model(
    family="gpt",
    num_layers=12,
    hidden_size=512,
    ffn_hidden_size=2048,
    num_attention_heads=8,
    vocab_size=50257,
    max_positions=1024,
)
LARGE = Model(
    family="gpt",
    num_layers=32,
    hidden_size=4096,
    ffn_hidden_size=16384,
    num_attention_heads=32,
    num_query_groups=8,
    vocab_size=131072,
    max_positions=8192,
    untie_embeddings_and_output_weights=True,
)


def planned(
    model: Model, parallel: Parallel, *, micro: int, batch: int, shared: bool = True, recompute: str = "none"
) -> Plan:
    """The layout of a test: `micro` samples per lane, `batch` per step; `shared` means the distributed optimizer."""
    spec = Spec(
        cluster=Cluster(gpus_per_node=8),
        batch=Batch(global_size=batch, micro_size=micro * (parallel.dp or 1), seq_length=model.max_positions or 0),
        modules={"language": Module(parallel=parallel, model=model, recompute=recompute)},
        training=Training(distributed_optimizer=shared),
    )
    return compile_spec(spec)


@pytest.mark.parametrize(
    ("plan", "settings", "measured", "within"),
    [
        pytest.param(
            planned(LARGE, Parallel(tp=4, dp=2), micro=2, batch=8),
            PLAIN,
            57_143_791_616,
            0.02,
            id="gpt3_7b_tp4_pp1_memory_speed",
        ),
        pytest.param(
            planned(SMALL, Parallel(dp=8), micro=4, batch=32, shared=False, recompute="full"),
            PLAIN,
            2_561_334_272,
            0.03,
            id="gpt3_mcore_te_tp1_pp1_resume_torch_dist_uniform_full_recompute",
        ),
        pytest.param(
            planned(SMALL, Parallel(dp=8), micro=4, batch=32),
            UNFUSED,
            4_702_430_208,
            0.03,
            id="gpt3_mcore_te_tp1_pp1_dist_optimizer_no_mmap_bin_files",
        ),
        pytest.param(
            planned(SMALL, Parallel(tp=4, dp=2), micro=4, batch=32),
            UNFUSED,
            1_543_416_320,
            0.06,
            id="gpt3_mcore_te_tp4_pp1_dist_optimizer_overlap_grad_reduce_param_gather",
        ),
        pytest.param(
            planned(SMALL, Parallel(tp=2, pp=2, cp=2, dp=1, sequence_parallel=True), micro=4, batch=32, shared=False),
            attrs.evolve(PLAIN, dropout=False),
            935_777_792,
            0.06,
            id="gpt3_mcore_te_tp2_pp2_cp2",
        ),
    ],
)
def test_peak_memory_is_what_was_measured(plan: Plan, settings: Settings, measured: int, within: float) -> None:
    assert rank_memory(plan, plan.world_size - 1, settings).total == pytest.approx(measured, rel=within)


def test_a_step_of_llava_is_what_was_measured() -> None:
    """mimo_vlm_pretrain_convergence_tp1_pp1_cp1_dp8_seq_packing, a MimoModel of CLIP and Vicuna.

    Only the projector trains, on four packs of 3,200 tokens per rank. The test does not say how many images a pack
    has: five fit, with their captions. The time is the median of 100 steps. The peak means nothing, since a checkpoint
    in fp32 had been read before; the memory allocated between steps is that of the states.
    """
    images = Module(
        parallel=Parallel(dp=8),
        model=Model(preset="clip-vit-l-14-336", projector_hidden_size=4096),
        output=Output(tensor_dims=2, tokens_per_sample=5 * 576),
        freeze=Freeze(encoder=True),
    )
    language = Module(
        parallel=Parallel(dp=8), model=Model(preset="vicuna-7b"), freeze=Freeze(encoder=True, projection=True)
    )
    spec = Spec(
        cluster=Cluster(gpus_per_node=8, gpu="h100"),
        batch=Batch(global_size=32, micro_size=8, seq_length=3200),
        modules={"language": language, "images": images},
        placement="colocated",
    )
    found = predict(compile_spec(spec))
    assert found.step_seconds == pytest.approx(0.798, rel=0.1)
    states = sum(stage.memory.states for stage in found.stages)
    assert states == pytest.approx(14_569_809_920, rel=0.01)
