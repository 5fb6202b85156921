"""From spec to plan: the passes, in order. No other file knows the order, and no pass knows another.

    topology -> models -> placement -> batch -> assembly

Topology, models and placement do not need one another, so their faults are reported together; samples per lane need
the lanes that placement gives. Each pass is a pure function that adds its faults to the collector. What is found
beside the faults of a text that cannot be read whole is in further.py.
"""

from __future__ import annotations

import attrs

from ..base.errors import Faults, PlanError
from ..layout.dag import Edges, reached_from
from ..layout.ir import Grid, ModulePlan
from ..plan import Plan
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY, Cluster, Model, Module, Output, Parallel
from ..spec.spec import Spec
from .batch import check_lanes, check_microbatches
from .models import check_tokens, resolve_models, stage_layers
from .nodes import check_nodes
from .placement import place
from .topology import find_edges


def compile_spec(spec: Spec, *, world_size: int | None = None, strict: bool = False) -> Plan:
    """Compile a spec into a plan.

    Args:
        spec: what the user wrote.
        world_size: number of ranks, which overrides the spec's cluster.
        strict: whether warnings are errors.

    Raises:
        PlanError: with every fault found, in source order.
    """
    faults = Faults(spec.source)
    edges = find_edges(spec, faults)
    models = resolve_models(spec, faults)
    check_tokens(spec, models, edges, faults)
    grids = _place_beside(spec, world_size, faults)
    check_microbatches(spec.batch, faults)
    if grids:
        check_lanes(spec.batch, grids, faults)
    faults.raise_errors()
    cluster = _cluster_in_use(spec.cluster, max(grid.end for grid in grids.values()))
    has_offsets = any(one.parallel and one.parallel.rank_offset is not None for one in spec.modules.values())
    check_nodes(grids, cluster.gpus_per_node if cluster else None, faults, has_offsets=has_offsets)
    if strict and faults.warnings:
        raise PlanError(faults.warnings)
    encoders = _before_language(edges)
    return Plan(
        modules=tuple(
            _module(name, spec.modules[name], grid, models[name], is_encoder=name in encoders)
            for name, grid in grids.items()
        ),
        edges=edges,
        batch_sizes=spec.batch,
        training=spec.training,
        cluster=cluster,
        warnings=faults.warnings,
        source=spec.source,
    )


def _place_beside(spec: Spec, world_size: int | None, faults: Faults) -> dict[str, Grid]:
    """Run placement with its own collector, so that the faults of other passes do not silence it."""
    found = Faults(spec.source)
    grids = place(spec, world_size, found)
    faults.merge(found)
    return grids


def _cluster_in_use(cluster: Cluster | None, world_size: int) -> Cluster | None:
    """The cluster with the number of nodes that the world fills; None if the last node is filled only in part."""
    if cluster is None or cluster.gpus_per_node is None:
        return cluster
    num_nodes, rest = divmod(world_size, cluster.gpus_per_node)
    return attrs.evolve(cluster, nodes=None if rest else num_nodes)


def _before_language(edges: Edges) -> set[str]:
    """The modules that feed language, directly or through others."""
    return reached_from(MIMO_LANGUAGE_MODULE_KEY, tuple((dst, src) for src, dst in edges)) - {MIMO_LANGUAGE_MODULE_KEY}


def _output_in_use(output: Output, *, is_encoder: bool) -> Output:
    """The output with the number of dims that the module hands on when it runs, if the spec does not say it.

    megatron-core's ModalitySubmodules flattens what its encoders make into (tokens, hidden), whatever it feeds
    (models/mimo/submodules, 0.19). Language and what comes after it are no such submodules, nor is an output whose
    batch dim the spec names.
    """
    if output.tensor_dims is not None:
        return output
    return attrs.evolve(output, tensor_dims=2 if is_encoder and output.batch_dim is None else 3)


def _module(name: str, module: Module, grid: Grid, model: Model | None, *, is_encoder: bool) -> ModulePlan:
    parallel = module.parallel or Parallel()
    return ModulePlan(
        name=name,
        grid=grid,
        model=model,
        output=_output_in_use(module.output, is_encoder=is_encoder),
        special_token_id=module.special_token_id,
        freeze=module.freeze,
        recompute=module.recompute,
        stages=stage_layers(module, model),
        sequence_parallel=parallel.sequence_parallel,
    )
