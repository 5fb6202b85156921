"""Walks of the module DAG: order, cycles, reachability, longest paths.

graphlib does the sorting. networkx would do all of it, but takes about half a second to import; `plan.graph()`
gives its graph to those who analyse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

Edges = tuple[tuple[str, str], ...]


def find_cycle(names: Iterable[str], edges: Edges) -> list[str]:
    """A cycle as a path that ends where it starts; empty if there is none."""
    try:
        topological_order(names, edges)
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def topological_order(names: Iterable[str], edges: Edges) -> list[str]:
    """The modules, every source before its destinations. Raises graphlib.CycleError."""
    sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(names, ()))
    for src, dst in edges:
        sorter.add(dst, src)
    return list(sorter.static_order())


def _adjacent(edges: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for src, dst in edges:
        found.setdefault(src, []).append(dst)
    return found


def reached_from(start: str, edges: Edges) -> set[str]:
    """The modules that can be reached from `start` along the edges, itself included."""
    adjacent = _adjacent(edges)
    found, waiting = {start}, [start]
    while waiting:
        for name in adjacent.get(waiting.pop(), ()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def stages_before(edges: Edges, num_stages: Mapping[str, int]) -> dict[str, int]:
    """For each module, the number of stages on the longest path that ends just before it."""
    before = dict.fromkeys(num_stages, 0)
    outgoing = _adjacent(edges)
    for src in topological_order(num_stages, edges):
        for dst in outgoing.get(src, ()):
            before[dst] = max(before[dst], before[src] + num_stages[src])
    return before
