"""Where every stage stands in the 1F1B schedule that runs: on the longest path, modules on language's ranks inside it.

`RankView.position` counts as megatron-core does, every module on the path for itself. But modules that share ranks
with language run inside its forward pass: their edges are no hops of the pipeline, and they add no stage to it.
Schedule and prediction go by this:

    images pp 2 -> language pp 2, apart      images 0 1, language 2 3      4 stages
    images on language's first stage         images 0,   language 0 1      2 stages
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from .frozenmap import FrozenMap
from .ir import ModulePlan
from .spec import MIMO_LANGUAGE_MODULE_KEY
from .topology import Edges, stages_before


@attrs.frozen
class Pipeline:
    """The stages of a plan's schedule.

    Attributes:
        first: per module, the place of its first stage.
        num_stages: of the longest path.
        hops: the edges between modules apart, over which the pipeline hands tensors on.
    """

    first: FrozenMap[str, int]
    num_stages: int
    hops: Edges


def pipeline_of(modules: Mapping[str, ModulePlan], edges: Edges) -> Pipeline:
    """The schedule's stages of a placed DAG."""
    language = modules[MIMO_LANGUAGE_MODULE_KEY]
    inside = {name for name, module in modules.items() if module is not language and _overlap(module, language)}
    hops = tuple((src, dst) for src, dst in edges if not _overlap(modules[src], modules[dst]))
    sizes = {name: module.num_stages for name, module in modules.items()}
    before = stages_before(hops, sizes)
    first = {name: before[MIMO_LANGUAGE_MODULE_KEY if name in inside else name] for name in modules}
    return Pipeline(FrozenMap(first), max(first[name] + sizes[name] for name in modules), hops)


def _overlap(one: ModulePlan, other: ModulePlan) -> bool:
    return one.grid.rank_offset < other.grid.end and other.grid.rank_offset < one.grid.end
