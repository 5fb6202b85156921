"""Law: the YAML text of a spec is read as an equal spec, and says no more than it must."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given

from planner import Batch, Cluster, Module, Spec, compile_spec, load_spec, parse_spec
from planner.testing.strategies import specs
from tests import EXAMPLES

BATCH = Batch(global_size=1, micro_size=1, seq_length=1)


@given(specs())
def test_any_spec_is_read_again(spec: Spec) -> None:
    assert parse_spec(spec.to_yaml()) == spec


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_read_again(path: object) -> None:
    spec = load_spec(str(path))
    assert parse_spec(spec.to_yaml()) == spec


@pytest.mark.parametrize(
    "name",
    [
        "1e3",
        "1.5",
        "null",
        "yes",
        "0x10",
        "1:30",
        "a: b",
        "#",
        "- x",
        "'",
        '"',
        "nan",
        "1_0",
        "~",
        "=",
        "<<",
        "2020-01-01",
    ],
)
def test_a_word_that_looks_like_something_else_is_quoted(name: str) -> None:
    spec = Spec(batch=BATCH, modules={"language": Module()}, cluster=Cluster(gpu=name))
    assert parse_spec(spec.to_yaml()) == spec


def test_defaults_are_left_out() -> None:
    spec = load_spec(EXAMPLES / "llava_8gpu.yaml")
    text = attrs.evolve(spec, training=attrs.evolve(spec.training, lr=1e-5)).to_yaml()
    assert "recompute" not in text
    assert "order" not in text
    assert text.startswith("schema: 1\ncluster: {nodes: 1, gpus_per_node: 8, gpu: h100}\nbatch: {")
    assert text.endswith("training: {lr: 1.0e-05}\n")


def test_what_was_chosen_is_said() -> None:
    """A plan's spec has every choice made. Comments tell them from what was written."""
    written = load_spec(EXAMPLES / "llava_8gpu.yaml")
    whole = compile_spec(written).to_spec()
    text = whole.to_yaml(written)
    assert parse_spec(text) == whole
    lines = [line.strip() for line in text.splitlines()]
    assert "parallel: {tp: 2, pp: 2, dp: 1, rank_offset: 0}  # chosen: dp, rank_offset" in lines
    assert "stages: [16, 16]  # chosen: stages" in lines
    assert "special_token_id: 32000" in lines
    assert not any("chosen" in line for line in written.to_yaml(written).splitlines())


@given(specs())
def test_comments_change_nothing(spec: Spec) -> None:
    assert parse_spec(spec.to_yaml(Spec(batch=spec.batch, modules={"language": {}}))) == spec
