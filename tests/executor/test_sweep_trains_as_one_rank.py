"""Law: every layout of the published LLaVA sweep with up to eight ranks trains like its reference on one rank."""

from __future__ import annotations

import csv

import pytest

from tests import DATA
from tests.executor.jobs import specs
from tests.executor.jobs.parity import measure

_ROWS = (DATA / "llava_image_sweep.csv").read_text().splitlines()
SWEEP = list(csv.DictReader(line for line in _ROWS if not line.startswith("#")))


@pytest.mark.parametrize("row", SWEEP, ids=lambda row: row["name"])
def test_layout_trains_as_one_rank(row: dict[str, str]) -> None:
    sizes = {name: int(value) for name, value in row.items() if name != "name"}
    axes = {module: {axis: sizes[f"{module}_{axis}"] for axis in ("tp", "pp", "dp")} for module in ("llm", "vision")}
    for module, parallel in axes.items():
        parallel["rank_offset"] = sizes[f"{module}_offset"]
    plan = specs.plan(axes["llm"], axes["vision"], micro_size=sizes["micro_size"])
    assert plan.world_size == sizes["world"]
    measure(plan).check()
