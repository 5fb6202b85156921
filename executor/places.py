"""Which modules run in one forward pass, and where that pass stands in the pipeline. Arithmetic on the plan only.

A rank has one forward pass per microbatch: it runs all modules of the rank. So modules that share ranks, directly or
over a third, are one node of what the schedule sees; language's first stage is the node of all that share its ranks.
An edge inside such a node is exchanged in the pass itself, where the two modules share ranks.
"""

from __future__ import annotations

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, ModulePlan, Plan
from planner.topology import find_cycle, stages_before

Edges = tuple[tuple[str, str], ...]


def overlap(one: ModulePlan, other: ModulePlan) -> range:
    """The ranks of both."""
    return range(max(one.grid.rank_offset, other.grid.rank_offset), min(one.grid.end, other.grid.end))


def shared_edges(plan: Plan) -> Edges:
    """The edges whose modules share ranks."""
    return tuple(edge for edge in plan.edges if overlap(*map(plan.module, edge)))


def nodes_of(plan: Plan) -> dict[str, str]:
    """Per module the one that stands for its node: language where it is in it, else the first by rank."""
    nodes: list[list[str]] = []
    end = 0
    for module in sorted(plan.modules, key=lambda module: (module.grid.rank_offset, module.grid.end)):
        if module.grid.rank_offset >= end:
            nodes.append([])
        nodes[-1].append(module.name)
        end = max(end, module.grid.end)
    stands = {
        name: MIMO_LANGUAGE_MODULE_KEY if MIMO_LANGUAGE_MODULE_KEY in node else node[0]
        for node in nodes
        for name in node
    }
    return {module.name: stands[module.name] for module in plan.modules}


def _edges_of_nodes(plan: Plan, nodes: dict[str, str]) -> Edges:
    shared = shared_edges(plan)
    return tuple((nodes[src], nodes[dst]) for src, dst in plan.edges if (src, dst) not in shared)


def cycle_of_nodes(plan: Plan) -> list[str]:
    """Nodes that wait for one another, as a path that ends where it starts; empty if there are none."""
    nodes = nodes_of(plan)
    return find_cycle(dict.fromkeys(nodes.values()), _edges_of_nodes(plan, nodes))


def position(plan: Plan, rank: int) -> tuple[int, int]:
    """(stage of the rank, number of stages) on the longest path of nodes, as the schedule counts them."""
    nodes = nodes_of(plan)
    sizes: dict[str, int] = {}
    for name, node in nodes.items():
        if node != MIMO_LANGUAGE_MODULE_KEY or name == node:  # what is inside language's first stage adds none
            sizes[node] = max(sizes.get(node, 0), plan.module(name).num_stages)
    before = stages_before(_edges_of_nodes(plan, nodes), sizes)
    total = max(before[node] + size for node, size in sizes.items())
    coords = plan.view(rank).coords
    name = MIMO_LANGUAGE_MODULE_KEY if MIMO_LANGUAGE_MODULE_KEY in coords else next(iter(coords))
    return before[nodes[name]] + coords[name][Axis.PP], total
