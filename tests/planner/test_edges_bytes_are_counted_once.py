"""Law: the strategy of an edge and the predictions count the same bytes: those of what the source makes of a sample."""

from __future__ import annotations

import pytest

from planner import Batch, Cluster, Model, Module, Output, Parallel, Plan, Spec, Strategy, compile_spec
from planner.cost.work.tokens import edge_bytes, tokens_of

CLIP = Model(preset="clip-vit-l-14-336", projector_hidden_size=4096)
WHISPER = Model(preset="whisper-base", projector_hidden_size=4096)
VICUNA = Model(preset="vicuna-7b")


def joined(encoder: Model | None, language: Model | None = VICUNA, **output: int) -> Plan:
    """An encoder that feeds language from another node, two ranks each; a transfer holds one sample."""
    modules = {
        "encoder": Module(parallel=Parallel(tp=2, dp=1), model=encoder, output=Output(tensor_dims=2, **output)),
        "language": Module(parallel=Parallel(tp=2, dp=1), model=language),
    }
    batch = Batch(global_size=1, micro_size=1, seq_length=4096)
    return compile_spec(Spec(cluster=Cluster(nodes=2, gpus_per_node=2), batch=batch, modules=modules))


@pytest.mark.parametrize(
    ("plan", "tokens"),
    [
        pytest.param(joined(CLIP), (336 // 14) ** 2, id="patches of one image, without the class token"),
        pytest.param(joined(CLIP, tokens_per_sample=1152), 1152, id="as written: two images"),
        pytest.param(joined(CLIP, tokens_per_sample=144), 144, id="as written: merged patches"),
        pytest.param(joined(WHISPER), 1500, id="half of the frames of one clip"),
        pytest.param(joined(None), 4096, id="a whole sequence, if nothing says better"),
    ],
)
def test_bytes_follow_from_the_tokens_handed_on(plan: Plan, tokens: int) -> None:
    encoder, language = plan.modules
    assert tokens_of(plan, encoder).handed_on == tokens
    assert plan.bytes_per_sample("encoder", "language") == tokens * 4096 * 2 == edge_bytes(plan, encoder, language)


def test_an_edge_of_unknown_width_has_no_bytes() -> None:
    plan = joined(None, language=None)
    assert plan.bytes_per_sample("encoder", "language") is None
    assert edge_bytes(plan, *plan.modules) == 0
    assert plan.bridge("encoder", "language").strategy is Strategy.LEADER


def test_the_strategy_is_chosen_by_those_bytes() -> None:
    """4096 wide, in bf16: 256 tokens are 2 MiB, the least for which slices pay."""
    strategies = [joined(CLIP, tokens_per_sample=count).bridge("encoder", "language").strategy for count in (255, 256)]
    assert strategies == [Strategy.LEADER, Strategy.SLICES]
    assert joined(CLIP).bridge("encoder", "language").strategy is Strategy.SLICES
