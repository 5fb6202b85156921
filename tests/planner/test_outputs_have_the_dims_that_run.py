"""Law: an output whose dims the spec leaves out has those that its module hands on, and plans store them."""

from __future__ import annotations

import json

import pytest

from planner import Module, Output, Plan, PlanError, Spec, from_parallelism
from planner.document import digest_of_fields
from tests.strategies import planned, simple

TOPOLOGY = {"audio": ["images"], "images": ["language"], "language": ["video"]}


def plan_of(**outputs: Output) -> Plan:
    spec = simple(12, audio={}, images={}, language={}, video={})
    modules = {name: Module(parallel={}, output=outputs.get(name, Output())) for name in spec.modules}
    return planned(Spec(batch=spec.batch, modules=modules, topology=TOPOLOGY))


def test_what_is_before_language_hands_on_two_dims_and_the_rest_three() -> None:
    assert {module.name: module.output.tensor_dims for module in plan_of().modules} == {
        "audio": 2,
        "images": 2,
        "language": 3,
        "video": 3,
    }


@pytest.mark.parametrize("batch_dim", [0, 1])
def test_an_output_with_a_batch_dim_has_three(batch_dim: int) -> None:
    plan = plan_of(images=Output(batch_dim=batch_dim))
    assert plan.module("images").output == Output(tensor_dims=3, batch_dim=batch_dim)


@pytest.mark.parametrize("dims", [2, 3])
def test_what_the_spec_says_holds(dims: int) -> None:
    plan = plan_of(images=Output(tensor_dims=dims), language=Output(tensor_dims=dims))
    assert [plan.module(name).output.tensor_dims for name in ("images", "language")] == [dims, dims]
    assert (plan.digest == plan_of().digest) is False


def test_specs_of_megatron_bridge_leave_it_out() -> None:
    sizes = {"language": {"data_parallel_size": 2}, "images": {"data_parallel_size": 2}}
    spec = from_parallelism(sizes, global_batch_size=4, micro_batch_size=4, seq_length=64)
    assert spec.modules["images"].output == Output()
    assert planned(spec).module("images").output.tensor_dims == 2


def test_documents_store_it_so_that_old_ones_keep_their_meaning() -> None:
    """Documents of 0.1 say 3 where their spec left it out; one that says nothing is no document of any release."""
    fields = json.loads(plan_of().to_json())
    outputs = {name: module["output"] for name, module in fields["spec"]["modules"].items()}
    assert {name: output["tensor_dims"] for name, output in outputs.items()} == {
        "audio": 2,
        "images": 2,
        "language": 3,
        "video": 3,
    }
    del outputs["images"]["tensor_dims"], fields["digest"]
    with pytest.raises(PlanError, match=r"spec\.modules\.images\.output\.tensor_dims: tensor_dims is missing"):
        Plan.from_json(json.dumps(fields | {"digest": digest_of_fields(fields)}))
