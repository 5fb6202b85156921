"""Law: layouts that others have trained in, of papers and reports, plan without a warning that is not true.

The files in tests/data/layouts have sizes and parallelism alone, each with its source in the first line.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from planner import Plan, compile_spec, load_spec
from planner.advice.memory import memory_warnings
from planner.cost.predict import predict
from planner.cost.timing.hardware import load_hardware
from planner.limits.layers import Layers
from planner.limits.limits import limits_of
from planner.limits.target import Target
from tests import DATA
from tests.cost.test_costs_add_up_in_every_layout import written

LAYOUTS = sorted((DATA / "layouts").glob("*.yaml"))
# Weights and gradients were sharded over the lanes as well (FSDP), which megatron-core's optimizer does not do.
TOO_FULL = {"llama3_405b_16384gpu_131072tokens", "llama3_405b_16384gpu_8192tokens", "llama3_405b_8192gpu_8192tokens"}


def planned(path: Path) -> Plan:
    return compile_spec(load_spec(path))


def test_there_are_21_with_their_sources() -> None:
    assert len(LAYOUTS) == 21
    for path in LAYOUTS:
        first = path.read_text().partition("\n")[0]
        assert re.search(r"arXiv \d{4}\.\d{5}|issue \d+", first), path
        (gpus,) = re.findall(r"_(\d+)gpu", path.stem)
        assert planned(path).world_size == int(gpus)


@pytest.mark.parametrize("path", LAYOUTS, ids=lambda path: path.stem)
def test_no_warning_is_untrue_and_every_remedy_helps(path: Path) -> None:
    plan = planned(path)
    assert plan.warnings == ()
    assert limits_of(plan, Target(layers=Layers.TRANSFORMER_ENGINE)) == ()
    found = memory_warnings(plan, load_hardware(str(plan.gpu)))
    assert bool(found) == (path.stem in TOO_FULL)
    for warning in found:
        assert "which fits; a step takes " in warning.remedy
        assert predict(written(plan, warning.remedy)).fits
