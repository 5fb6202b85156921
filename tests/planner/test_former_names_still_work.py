"""Public names of the former release give what they gave, with a warning that says the new name."""

from __future__ import annotations

import pytest

from tests.strategies import planned, simple


def test_total_stages() -> None:
    plan = planned(simple(images={"pp": 3}, language={"pp": 2}))
    with pytest.warns(DeprecationWarning, match=r"Plan\.pipeline\.num_stages"):
        assert plan.total_stages == plan.pipeline.num_stages == 5


def test_place_in_the_pipeline() -> None:
    pipeline = planned(simple(images={"pp": 3}, language={"pp": 2})).pipeline
    with pytest.warns(DeprecationWarning, match=r"Pipeline\.position"):
        assert pipeline.place({"language": 1}) == pipeline.position({"language": 1}) == 4


def test_position_of_a_group() -> None:
    plan = planned(simple(images={"tp": 2}, language={"pp": 2}))
    for index, group in enumerate(plan.creation_order()):
        with pytest.warns(DeprecationWarning, match=r"Group\.creation_index"):
            assert group.position == group.creation_index == index
