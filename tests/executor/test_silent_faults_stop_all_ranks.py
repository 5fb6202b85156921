"""Law: whatever makes ranks train something else than planned stops all of them, at the first check after it happens.

Twenty faults that raise nothing, each with the words by which it is told: the module or key, the ranks, the tensor.
"""

from __future__ import annotations

import pytest

from planner import Freeze, Plan
from tests.executor.jobs import ranks, specs

TIED = {"language": specs.language(untie_embeddings_and_output_weights=False)}
# language on ranks 0-1 (two lanes, or two tp ranks), images on ranks 2-3
LANES = specs.plan({"dp": 2}, {"dp": 2}, fixed=True, freeze={"images": Freeze(encoder=True)})
DIVIDED = specs.plan({"tp": 2}, {"dp": 2}, fixed=True)
STAGED = specs.plan({"pp": 2}, {"dp": 2}, fixed=True, models=TIED)

# plant: victim, whether the optimizer is sharded, the step that stops, words that are told
Case = tuple[int, bool, int, tuple[str, ...]]
CASES: dict[str, tuple[Plan, dict[str, Case]]] = {
    "lanes": (
        LANES,
        {
            "input_ids": (1, False, 1, ("data: microbatch 0: input_ids on rank 1 differs",)),
            "labels": (2, False, 1, ("data: microbatch 0: labels on rank 2 differs",)),
            "loss_mask": (0, False, 1, ("data: microbatch 0: loss_mask on rank 0 differs",)),
            "position_ids": (3, False, 1, ("data: microbatch 0: position_ids on rank 3 differs",)),
            "pixels": (1, False, 1, ("data: microbatch 0: modality_inputs.images.vit.inputs on rank 1 differs",)),
            "reordered": (1, False, 1, ("rank 1: microbatch 0: ", " of language", "in another order than planned")),
            "shifted": (1, False, 1, ("rank 1: microbatch 0: ", " of language", "not those of the lane's samples")),
            "initial weight of a lane": (1, False, 0, ("weights of language: ", "linear_qkv", "on rank 1 differs")),
            "initial frozen weight": (3, False, 0, ("weights of images: ", "linear_qkv", "on rank 3 differs")),
            "gradient before reduction": (1, False, 1, ("known gradients of language come out wrong",)),
            "gradient after reduction": (1, False, 1, ("rank 1: known gradients of language come out wrong",)),
            "token count": (0, False, 1, ("3 tokens on each rank that counts them are 6, 11 were counted",)),
            "bridge forward": (3, False, 1, ("bridge images->language, forward: ",)),
            "bridge backward": (0, False, 1, ("bridge images->language, backward: ", "rank 2", "rank 3")),
            "learning rate": (3, False, 1, ("learning rate of images on rank 3 differs",)),
            "gather left out": (1, True, 2, ("weights of language: ", "on rank 1 differs")),
            "update skipped": (2, False, 1, ("weights of images on rank 2: the update left them as they were",)),
            "none": (0, True, -1, ()),
            "none, own rates": (0, False, -1, ()),
        },
    ),
    "divided": (
        DIVIDED,
        {
            "initial norm of a tp rank": (1, False, 0, ("weights of language: ", "layernorm", "which are tp ranks")),
            "weight after a step": (1, False, 1, ("linear_qkv", "on rank 1 changed after the last update")),
            "none": (0, False, -1, ()),
        },
    ),
    "staged": (
        STAGED,
        {
            "initial tied copy": (1, False, 0, ("weights of language: embedding.word_embeddings", "tied copies")),
            "none": (0, False, -1, ()),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_planted_is_caught(name: str) -> None:
    plan, cases = CASES[name]
    asked = [(plant, victim, sharded) for plant, (victim, sharded, _, _) in cases.items()]
    results = ranks.run(plan.world_size, "planted:caught", plan.to_json(), asked)
    wrong = []
    for index, (plant, (_, _, step, words)) in enumerate(cases.items()):
        told = {result[index] for result in results}
        ((found, text),) = told if len(told) == 1 else ((None, f"ranks differ: {told}"),)
        if found != step or not all(word in text for word in words):
            wrong.append(f"{plant}: stopped in step {found}, not {step}: {text}")
    assert not wrong, "\n\n".join(wrong)


def test_all_twenty_are_planted() -> None:
    planted = [plant for _, cases in CASES.values() for plant in cases if not plant.startswith("none")]
    assert len(set(planted)) == len(planted) == 20
