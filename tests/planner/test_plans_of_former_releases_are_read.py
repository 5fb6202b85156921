"""Law: plan documents that a former release wrote are read for ever (DESIGN, semantics 15)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner import Plan, PlanError, Strategy
from planner.document import digest_of_fields

FOLDER = Path(__file__).parents[1] / "data" / "plans_0.1"
DOCUMENTS = sorted(FOLDER.glob("*.json"))


def rewritten(text: str, **values: object) -> str:
    """The document with other values, and a digest that is right for them."""
    fields = json.loads(text) | values
    del fields["digest"]
    return json.dumps(fields | {"digest": digest_of_fields(fields)})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_a_document_of_release_0_1_gives_the_plan_of_its_spec(path: Path) -> None:
    plan = Plan.from_json(path.read_text())
    assert Plan.from_json(plan.to_json()) == plan
    assert (plan.to_json() == path.read_text()) == (path.stem == "tiny_4rank")


def test_what_release_0_1_decided_otherwise() -> None:
    former = {path.stem: json.loads(path.read_text()) for path in DOCUMENTS}
    plans = {path.stem: Plan.from_json(path.read_text()) for path in DOCUMENTS}
    stages = {name: (former[name]["total_stages"], plan.pipeline.num_stages) for name, plan in plans.items()}
    assert stages == {"llava_8gpu_colocated": (2, 1), "mixed": (5, 3), "slices": (2, 2), "tiny_4rank": (3, 3)}
    assert former["slices"]["edges"][0]["strategy"] == Strategy.SLICES
    assert plans["slices"].bridge("images", "language").strategy is Strategy.LEADER


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_an_edited_document_of_release_0_1_is_refused(path: Path) -> None:
    text = path.read_text()
    for changed in ({"total_stages": 7}, {"num_groups": 1}, {"layout": "elsewhere"}):
        with pytest.raises(PlanError):
            Plan.from_json(rewritten(text, **changed))
    with pytest.raises(PlanError):
        Plan.from_json(text.replace(json.loads(text)["digest"], "0" * 64))
    with pytest.raises(PlanError, match="found inf"):
        Plan.from_json(text.replace('"total_stages": ', '"total_stages": 1e9999, "more": '))
