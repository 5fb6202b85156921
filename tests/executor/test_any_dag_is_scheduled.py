"""Law: megatron-core's schedule on our communicator runs any DAG of modules, and computes what one process computes.

megatron-core 0.19 keeps only the last gradient of a module that feeds several (`grad_dict[src] =`), while here they are
summed. Both ends of an edge issue the same operations from the plan, so that no branch waits for another (Megatron-LM
#5370).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner import Batch, Module, Output, Parallel, Plan, Spec, compile_spec
from tests.executor.jobs import ranks

TOKENS = [3, 1, 0, 2, 5, 4]


def layout(topology: dict[str, tuple[str, ...]] | None = None, **parallels: dict[str, Any]) -> Plan:
    modules = {
        name: Module(parallel=Parallel(**({"dp": 1} | parallel)), output=Output(tensor_dims=2))
        for name, parallel in parallels.items()
    }
    batch = Batch(global_size=len(TOKENS), micro_size=len(TOKENS), seq_length=64)
    return compile_spec(Spec(batch=batch, modules=modules, topology=topology or {}))


CHAIN = {"images": ("audio",), "audio": ("language",)}
FORK = {"images": ("audio", "language"), "audio": ("language",)}
DIAMOND = {"images": ("audio", "speech"), "audio": ("language",), "speech": ("language",)}
JOIN = {"images": ("speech",), "audio": ("speech",), "speech": ("language",)}
DAGS = {
    "chain": layout(CHAIN, language={"dp": 2}, images={"dp": 3}, audio={"dp": 2}),
    "two outgoing edges": layout(FORK, language={"dp": 2}, images={"dp": 3}, audio={"dp": 2}),
    "two outgoing edges, tp": layout(FORK, language={"tp": 2}, images={"tp": 2}, audio={"dp": 3}),
    "diamond": layout(DIAMOND, language={"dp": 2}, images={"dp": 3}, audio={"pp": 2}, speech={"dp": 1}),
    "join": layout(JOIN, language={"dp": 2}, images={"dp": 3}, audio={"dp": 2}, speech={"dp": 1}),
    "short branch beside a long one": layout(language={"pp": 2}, images={"pp": 4}, audio={}),
    "short branch first": layout(audio={"dp": 2}, images={"pp": 4}, language={"pp": 2}),
}


def check(plan: Plan, hidden: int, num_microbatches: int, tokens: list[int]) -> list[dict[str, Any]]:
    """Assert that the gradient of every rank is that of one process."""
    arguments = (plan.to_json(), tokens, hidden, num_microbatches)
    results: list[dict[str, Any]] = ranks.run(plan.world_size, "dag_jobs:gradients", *arguments)
    (expected,) = ranks.run(1, "dag_jobs:alone", *arguments)
    for result in results:
        wanted = expected["gradients"][result["module"], result["stage"]]
        gap = np.abs(result["gradient"] - wanted).max() / np.abs(wanted).max()
        assert gap < 1e-5, (result["module"], result["stage"], gap)
    losses = [r["loss"] for r in results if r["module"] == "language" and r["lane"][1] == 0]
    assert sum(losses) == pytest.approx(expected["loss"], rel=1e-5)
    return results


@pytest.mark.parametrize("name", DAGS)
def test_gradients_are_those_of_one_process(name: str) -> None:
    check(DAGS[name], hidden=4, num_microbatches=5, tokens=TOKENS)


def test_large_tensors_do_not_stop_a_short_branch() -> None:
    """A source on a short branch runs ahead of language by the depth of the long branch.

    Its gradients come back before it is ready for them. With tensors of 6 MB, no buffer of the network hides that."""
    plan = DAGS["short branch beside a long one"]
    check(plan, hidden=256, num_microbatches=8, tokens=[1000] * len(TOKENS))


def test_what_comes_over_an_edge_has_a_name_of_its_own() -> None:
    """Two modules that feed one must not overwrite one another, nor must two that are fed by one."""
    results = check(DAGS["join"], hidden=4, num_microbatches=2, tokens=TOKENS)
    assert {r["module"]: r["inputs"] for r in results} == {
        "images": [],
        "audio": [],
        "speech": ["audio->speech", "images->speech"],
        "language": ["speech"],
    }


@pytest.mark.parametrize("without_grad", [True, False])
def test_passes_without_backward(without_grad: bool) -> None:
    """Under no_grad nothing waits for a gradient, and the next step trains. Without it, the user is told in time."""
    plan = DAGS["two outgoing edges"]
    said = ranks.run(plan.world_size, "dag_jobs:forward_only", plan.to_json(), TOKENS, 4, 6, without_grad)
    if without_grad:
        assert set(said) == {""}
    else:
        assert any("run passes without backward under torch.no_grad()" in one for one in said)


def test_memory_of_microbatches_is_used_again() -> None:
    """There are as many buffers as microbatches in flight, however many microbatches a step has."""
    plan = DAGS["short branch beside a long one"]
    few, many = (check(plan, 4, num, TOKENS) for num in (8, 16))
    assert [r["allocated"] for r in few] == [r["allocated"] for r in many]
    assert max(count for r in many for count in r["allocated"]) <= plan.pipeline.num_stages + 2
