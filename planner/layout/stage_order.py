"""The pipeline that runs: the position of every stage in the 1F1B schedule, counted along the longest path.

A rank runs all of its modules in one forward pass. Modules that share ranks with language, or that feed one another on
shared ranks, are therefore one *node* of the schedule. Edges inside a node are no hops of the pipeline and add no stage
to it:

    images pp 2 -> language pp 2, apart      images 0 1, language 2 3      4 stages
    images on language's first stage         images 0,   language 0 1      2 stages

megatron-core counts every module on the path by itself; executor/library/compare.py compares the two when they agree.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from ..base.frozen import frozen
from ..base.frozenmap import FrozenMap
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY
from .dag import Edges, find_cycle, stages_before
from .ir import ModulePlan


@frozen
class Pipeline:
    """The stages of a plan's schedule.

    Attributes:
        first: for each module, the position of its first stage, from 0.
        num_stages: number of stages on the longest path.
        hops: the edges between modules apart, over which the pipeline hands tensors on.
        shared: the edges whose modules share ranks.
        cycle: nodes that wait for one another, as a path that ends where it starts; empty if there are none. No
            schedule runs a plan with a cycle; positions then count every module by itself.
    """

    first: FrozenMap[str, int]
    num_stages: int
    hops: Edges
    shared: Edges
    cycle: tuple[str, ...]

    def position(self, stages: Mapping[str, int]) -> int:
        """The position of a rank that holds these stages, by module in plan order.

        It is that of language's stage, or of the first module's if the rank has no part of language.
        """
        leading = MIMO_LANGUAGE_MODULE_KEY if MIMO_LANGUAGE_MODULE_KEY in stages else next(iter(stages))
        return self.first[leading] + stages[leading]

    def place(self, stages: Mapping[str, int]) -> int:
        """The former name of `position`, kept for one release."""
        warnings.warn("Pipeline.place is now Pipeline.position", DeprecationWarning, stacklevel=2)
        return self.position(stages)


def pipeline_of(modules: Mapping[str, ModulePlan], edges: Edges) -> Pipeline:
    """The schedule's stages of a placed DAG."""
    shared = tuple((src, dst) for src, dst in edges if modules[src].grid.overlaps(modules[dst].grid))
    together = set(shared)
    hops = tuple(edge for edge in edges if edge not in together)
    nodes = _nodes(modules, shared)
    between = tuple((nodes[src], nodes[dst]) for src, dst in hops)
    cycle = tuple(find_cycle(dict.fromkeys(nodes.values()), between))
    if cycle:
        nodes, between = {name: name for name in modules}, edges
    sizes: dict[str, int] = {}
    for name, module in modules.items():
        sizes[nodes[name]] = max(sizes.get(nodes[name], 0), module.num_stages)
    before = stages_before(between, sizes)
    first = FrozenMap((name, before[nodes[name]]) for name in modules)
    return Pipeline(first, max(before[node] + size for node, size in sizes.items()), hops, shared, cycle)


def _nodes(modules: Mapping[str, ModulePlan], shared: Edges) -> dict[str, str]:
    """For each module, the module that names its node: language, if the node holds it."""
    language = modules[MIMO_LANGUAGE_MODULE_KEY]
    inside = {name for name, module in modules.items() if module.grid.overlaps(language.grid)}
    nodes = {name: MIMO_LANGUAGE_MODULE_KEY if name in inside else name for name in modules}
    for src, dst in shared:
        if nodes[src] == nodes[dst]:
            continue
        one, other = sorted((nodes[src], nodes[dst]), key=lambda node: node != MIMO_LANGUAGE_MODULE_KEY)
        nodes = {name: one if node == other else node for name, node in nodes.items()}
    return nodes
