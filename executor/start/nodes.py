"""Where a rank runs, and whether ranks lie on nodes as the plan says.

A plan for nodes of 8 GPUs has been checked for them: its tensor-parallel groups, for one, stay inside a node. On nodes
of 4 they would cross the network, and everything would still run. Nothing is asked of a plan that does not say how many
GPUs a node has.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from planner.base.runs import runs_text

from .meet import ranks_text

_MAX_NAMED = 4


@attrs.frozen(kw_only=True)
class Place:
    """Where the launcher has put a rank.

    Attributes:
        host: what tells this node from others.
        num_local: ranks that the launcher has started on this node; None if it does not say.
    """

    host: str
    num_local: int | None

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """The place of this process."""
        given = environment.get("LOCAL_WORLD_SIZE", "")
        return cls(host=_host(environment), num_local=int(given) if given.isascii() and given.isdecimal() else None)


def _host(environment: Mapping[str, str]) -> str:
    """Slurm's name of the node, or the pod's, or what one kernel and one network call themselves.

    Several nodes of a test, or several containers, may share a host name or a kernel, hence all three.
    """
    if name := environment.get("SLURMD_NODENAME"):
        return name
    if "KUBERNETES_SERVICE_HOST" in environment and (name := environment.get("HOSTNAME")):
        return name
    return " ".join([socket.gethostname(), _boot_id(), _network()])


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # no Linux
        return ""


def _network() -> str:
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return ""


def shape_fault(places: Sequence[Place], gpus_per_node: int | None) -> str:
    """How the places of ranks 0, 1, ... differ from the plan's nodes; "" if they do not, or the plan does not say."""
    if gpus_per_node is None:
        return ""
    return _sizes(places, gpus_per_node) or _torn(places, gpus_per_node) or _shared(places, gpus_per_node)


def _sizes(places: Sequence[Place], gpus_per_node: int) -> str:
    """The launcher's nodes have another number of ranks. The plan's last node may be used in part."""
    last = (len(places) - 1) // gpus_per_node * gpus_per_node
    for rank, place in enumerate(places):
        planned = min(gpus_per_node, len(places) - rank // gpus_per_node * gpus_per_node)
        if place.num_local not in (None, planned):
            on = "the last node" if rank >= last > 0 else "a node"
            return (
                f"the plan is for {gpus_per_node} GPUs per node, {planned} ranks on {on}, and the launcher has started "
                f"{place.num_local} on that of rank {rank}: groups that the plan keeps inside a node would cross the "
                "network"
            )
    return ""


def _torn(places: Sequence[Place], gpus_per_node: int) -> str:
    """A node of the plan lies on several nodes of the launcher."""
    for first in range(0, len(places), gpus_per_node):
        hosts: dict[str, list[int]] = {}
        for rank in range(first, min(first + gpus_per_node, len(places))):
            hosts.setdefault(places[rank].host, []).append(rank)
        if len(hosts) > 1:
            named = [f"{ranks_text(ranks)} on {_name(host)}" for host, ranks in list(hosts.items())[:_MAX_NAMED]]
            return f"node {first // gpus_per_node} of the plan is on several nodes of the launcher: {', '.join(named)}"
    return ""


def _shared(places: Sequence[Place], gpus_per_node: int) -> str:
    """A node of the launcher holds several nodes of the plan."""
    nodes: dict[str, list[int]] = {}
    for node, place in enumerate(places[::gpus_per_node]):
        nodes.setdefault(place.host, []).append(node)
    for host, held in nodes.items():
        if len(held) > 1:
            return (
                f"nodes {runs_text(held)} of the plan are one node of the launcher, {_name(host)}: the plan counts on "
                f"{gpus_per_node} GPUs and the network of each"
            )
    return ""


def _name(host: str) -> str:
    return host.partition(" ")[0]
