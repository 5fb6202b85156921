"""Law: the specs that the pages build in Python, which say nothing of outputs and models, run with a user's modules."""

from __future__ import annotations

import re

import pytest

from tests import ROOT
from tests.executor.jobs import ranks

(CODE,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "spec.md").read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("name", ["spec", "same"])
def test_grids_are_built_and_the_model_trains(name: str) -> None:
    results = ranks.run(8, "page_jobs:train", CODE, name)
    assert {tuple(map(tuple, result["steps"])) for result in results} == {tuple(map(tuple, results[0]["steps"]))}
    for loss, norm, num_tokens in results[0]["steps"]:
        assert 0 < loss < 20
        assert norm > 0
        assert num_tokens == 8 * 32
    for result in results:
        assert result["grids"] == {"language": (0, 4, result["rank"] < 4), "images": (4, 4, result["rank"] >= 4)}
