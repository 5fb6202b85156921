"""Law: the words that pad a vocabulary take no part in the loss, so that no layout trains another model.

120 words are padded to 128 at tp 1, to 256 at tp 2 and to 512 at tp 4, of whose ranks three hold nothing else.
"""

from __future__ import annotations

import pytest

from planner import Plan
from tests.executor.jobs import ranks, specs
from tests.executor.jobs.parity import assemble, measure

TIED = {"language": specs.language(untie_embeddings_and_output_weights=False)}
LAYOUTS = {
    "tp 4": specs.plan({"tp": 4}, {"dp": 2}, fixed=True),
    "tp 2, tied over stages": specs.plan({"tp": 2, "pp": 2}, {}, fixed=True, models=TIED),
    "tp 4, tied": specs.plan({"tp": 4}, {"dp": 4}, fixed=True, placement="colocated", models=TIED),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_loss_is_that_of_the_words_alone(name: str) -> None:
    """Torch's cross entropy over the logits of a one-rank model, cut to its words, is the first step's loss."""
    plan = LAYOUTS[name]
    text = plan.to_json()
    (wanted,) = ranks.run(1, "jobs:loss_of_words", text)
    assert wanted > 1
    for result in ranks.run(plan.world_size, "jobs:train", text, {"steps": 1}):
        assert result["steps"][0][0] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_with_more_padding_train_alike(name: str) -> None:
    measure(LAYOUTS[name]).check()


def test_padding_stays_zero_and_belongs_to_no_tensor() -> None:
    plan = LAYOUTS["tp 4"]
    results = ranks.run(plan.world_size, "jobs:padding_after_training", plan.to_json())
    language = [result for result in results if result["rows"]]
    assert [result["rows"] for result in language] == [128] * 4
    assert [result["largest"] for result in language] == [0.0] * 4, "rows of padding got a gradient"
    found = assemble([result["parts"] for result in results])
    assert found["language_model.output_layer.weight"].shape == (vocabulary(plan), 32)


def vocabulary(plan: Plan) -> int:
    """The number of words of the language model."""
    return getattr(plan.module("language").model, "vocab_size", None) or 0
