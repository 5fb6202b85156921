"""Law: ranks that were started differently, or lie on other nodes than planned, all stop with the same sentence."""

from __future__ import annotations

from typing import Any

import pytest
from torch.distributed import HashStore, PrefixStore

from executor.errors import DisagreementError
from executor.start.agree import Nodes, agree, withdraw
from executor.start.nodes import Place
from executor.start.versions import installed
from tests.executor.jobs.meet_jobs import SHORT, agreed, in_threads

BASE = {"command": "train", "plan": "abc", "--steps": "3"}
CASES: dict[str, tuple[list[dict[str, str]], str]] = {
    "another command": (
        [BASE, BASE, {"command": "check", "plan": "abc"}],
        "command train on ranks 0-1, check on rank 2",
    ),
    "another plan": ([BASE, BASE | {"plan": "def", "--steps": "4"}], "plan abc on rank 0, def on rank 1"),
    "another option": ([BASE, BASE | {"--steps": "4"}], "--steps 3 on rank 0, 4 on rank 1"),
    "an option that rank 0 lacks": ([BASE, BASE | {"--lr": "0.1"}], "--lr not given on rank 0, 0.1 on rank 1"),
    "an option that another lacks": ([BASE | {"--lr": "0.1"}, BASE], "--lr 0.1 on rank 0, not given on rank 1"),
    "two things": (
        [BASE, BASE | {"torch": "2.9", "--steps": "4"}],
        "--steps 3 on rank 0, 4 on rank 1; torch not given on rank 0, 2.9 on rank 1",
    ),
    "many values": (
        [BASE | {"--seed": str(rank)} for rank in range(7)],
        "--seed 0 on rank 0, 1 on rank 1, 2 on rank 2, 3 on rank 3, 3 other values",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_differs_is_named(name: str) -> None:
    values, told = CASES[name]
    error = agreed(list(values))
    assert isinstance(error, DisagreementError)
    assert str(error).startswith(f"ranks were started differently: {told}. Give every rank the same command")


def test_equal_ranks_agree() -> None:
    assert agreed([BASE] * 4) == ""


def test_everything_installed_is_compared() -> None:
    found = installed()
    assert list(found) == ["torch", "megatron-core", "Python", "mimo-planner", "source of mimo-planner"]
    for name in found:
        assert f"{name} {found[name]} on rank 0, other on rank 1" in str(agreed([found, found | {name: "other"}]))


def test_the_size_of_the_world_is_told_by_all() -> None:
    assert "world size = 3, but the plan is for 4 ranks" in str(agreed([BASE] * 3, planned=4))


def test_a_rank_that_cannot_start_keeps_nobody_waiting() -> None:
    store = PrefixStore("agree", HashStore())
    withdraw(store, 1, "spec.yaml cannot be read")

    def first() -> str:
        return agree(store, 0, 2, 2, BASE, SHORT)

    assert str(in_threads([first])[0]) == "rank 1 cannot start: rank 1: spec.yaml cannot be read"


def nodes(hosts: str, num_local: list[int], **changes: Any) -> list[Nodes]:
    """A letter per rank: the host on which it runs."""
    places = [Place(host=f"{host} boot net", num_local=n) for host, n in zip(hosts, num_local, strict=True)]
    return [Nodes(**({"gpus_per_node": 4, "place": place} | changes)) for place in places]


def test_planned_nodes_are_those_of_the_launcher() -> None:
    assert agreed([BASE] * 8, nodes=nodes("aaaabbbb", [4] * 8)) == ""
    assert agreed([BASE] * 6, nodes=nodes("aaaabb", [4] * 4 + [2] * 2)) == "", "the last node may be used in part"


SHAPES = {
    "smaller nodes": (
        nodes("aabbccdd", [2] * 8),
        "the plan is for 4 GPUs per node, 4 ranks on a node, and the launcher has started 2 on that of rank 0",
    ),
    "larger nodes": (nodes("aaaaaaaa", [8] * 8), "and the launcher has started 8 on that of rank 0"),
    "another last node": (
        nodes("aaaabb", [4] * 4 + [3] * 2),
        "2 ranks on the last node, and the launcher has started 3",
    ),
    "dealt in turn": (
        nodes("abababab", [4] * 8),
        "node 0 of the plan is on several nodes of the launcher: ranks 0, 2 on a, ranks 1, 3 on b",
    ),
    "one host twice": (nodes("aaaaaaaa", [4] * 8), "nodes 0-1 of the plan are one node of the launcher, a: "),
}


@pytest.mark.parametrize("name", SHAPES)
def test_other_nodes_are_refused(name: str) -> None:
    given, told = SHAPES[name]
    text = str(agreed([BASE] * len(given), nodes=given))
    assert told in text
    assert "--any-node-shape" in text


def test_other_nodes_are_told_if_they_are_allowed() -> None:
    told = agreed([BASE] * 8, nodes=nodes("aabbccdd", [2] * 8, any_shape=True))
    assert told.startswith("the plan is for 4 GPUs per node")


def test_nothing_is_asked_of_a_plan_that_does_not_say() -> None:
    assert agreed([BASE] * 8, nodes=nodes("aabbccdd", [2] * 8, gpus_per_node=None)) == ""


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ({"SLURMD_NODENAME": "n7", "KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "pod-3"}, "n7"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "pod-3"}, "pod-3"),
    ],
)
def test_a_node_is_known_by_what_its_manager_calls_it(environment: dict[str, str], host: str) -> None:
    assert Place.here(environment) == Place(host=host, num_local=None)


def test_else_by_host_kernel_and_network() -> None:
    place = Place.here({"LOCAL_WORLD_SIZE": "4", "HOSTNAME": "of a shell"})
    assert place.num_local == 4
    assert len(place.host.split(" ")) == 3
    assert "of a shell" not in place.host
