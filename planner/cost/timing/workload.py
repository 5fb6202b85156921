"""The work of a plan, which no constant of the GPU changes, counted once; and how long it takes on a GPU.

The ranks of a stage are alike, so everything is counted once per module and stage: a plan of 1,024 ranks takes no
longer to count than one of 8 ranks with as many stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...base.frozen import frozen
from ...layout.ir import Direction, GroupKind, ModulePlan
from ...plan import Plan
from ..simulation.durations import Durations
from ..simulation.schedule import Stage, schedule_of
from ..work.facts import Facts, StageFacts, facts_of
from ..work.layers import LayerShape
from ..work.ops import Collective, CollectiveOp, StageWork
from ..work.optimizer_step import update_bytes, update_collectives
from ..work.settings import Settings
from ..work.stages import stage_work
from .bounds import check_prediction
from .bridges import Crossing, crossing_of, crossing_seconds
from .group_spans import ALONE, Span, gpus_per_node, hops_cross, spans_of
from .timing import Rates, Spans, collective_seconds, stage_seconds


@frozen(kw_only=True)
class Workload:
    """What a plan does in a step.

    Attributes:
        plan: the plan.
        settings: what is assumed of the training software.
        facts: the facts of every stage, which memory reads too.
        works: the work of one microbatch on each stage.
        spans: the spans of each module's groups.
        hops: what each stage hands to the next of its module, and the span of the two ranks; nothing for a module
            without a model.
        crossings: one microbatch over each edge, (forward, backward).
        updates: the update of each stage, once per step: its collectives, and the bytes of its memory traffic.
        held: for each kind of rank, the stages that it holds.
    """

    plan: Plan
    settings: Settings
    facts: Facts
    works: Mapping[Stage, StageWork]
    spans: Mapping[str, Spans]
    hops: Mapping[Stage, tuple[Collective, Span]]
    crossings: Mapping[tuple[str, str], tuple[Crossing, Crossing]]
    updates: Mapping[Stage, tuple[tuple[Collective, ...], float]]
    held: tuple[tuple[Stage, ...], ...]


def workload_of(plan: Plan, settings: Settings | None = None) -> Workload:
    """Count the work of every stage and edge of a plan."""
    settings = settings or Settings()
    works: dict[Stage, StageWork] = {}
    updates = {}
    check_prediction(plan)
    facts = facts_of(plan, settings)
    for (name, index), stage in facts.items():
        key = Stage(name, index)
        same = works.get(Stage(name, index - 1)) if _is_like_the_one_before(stage) else None
        works[key] = same or stage_work(plan, stage)
        updates[key] = (update_collectives(plan, stage), update_bytes(plan, stage))
    crossings = {
        (bridge.src, bridge.dst): (
            crossing_of(plan, bridge, Direction.FORWARD),
            crossing_of(plan, bridge, Direction.BACKWARD),
        )
        for bridge in plan.bridges
    }
    return Workload(
        plan=plan,
        settings=settings,
        facts=facts,
        works=works,
        spans={module.name: spans_of(plan, module.name) for module in plan.modules},
        hops=dict(hop for module in plan.modules for hop in _hops(plan, module, facts[module.name, 0].shape)),
        crossings=crossings,
        updates=updates,
        held=tuple(unit.stages for unit in schedule_of(plan).units),
    )


def _is_like_the_one_before(stage: StageFacts) -> bool:
    """Whether the stage before has the same work: both are inner stages, with as many layers."""
    layers, index = stage.module.stages, stage.index
    return layers is not None and index > 1 and not stage.is_last and layers[index] == layers[index - 1]


def _hops(plan: Plan, module: ModulePlan, shape: LayerShape | None) -> Iterator[tuple[Stage, tuple[Collective, Span]]]:
    """What each rank hands to the next stage of its module: hidden states, whole or its share of them."""
    if shape is None:
        return
    shares = shape.tp if module.sequence_parallel or shape.settings.scattered_hops else 1
    num_bytes = shape.element_bytes * shape.tokens.per_rank * shape.widths.hidden / shares
    collective = Collective(GroupKind.PP, CollectiveOp.SEND, num_bytes)
    for index, crosses in enumerate(hops_cross(plan, module)):
        yield Stage(module.name, index), (collective, Span(2 if crosses else 1, 2, 1))


def durations_of(work: Workload, rates: Rates) -> Durations:
    """How long every pass, hop and crossing of an edge takes."""
    plan = work.plan
    scales_out = plan.world_size > gpus_per_node(plan)
    passes: dict[tuple[Stage, Direction], float] = {}
    for stage, each in work.works.items():
        seconds = stage_seconds(each, work.spans[stage.module], rates, scales_out=scales_out)
        passes[stage, Direction.FORWARD], passes[stage, Direction.BACKWARD] = seconds
    return Durations.of(
        plan,
        lambda stage, way: passes[stage, way],
        lambda stage: collective_seconds(*work.hops[stage], rates) if stage in work.hops else 0.0,
        lambda src, dst, way: crossing_seconds(work.crossings[src, dst][way is Direction.BACKWARD], rates),
    )


def update_seconds(work: Workload, rates: Rates) -> dict[Stage, float]:
    """Seconds of the update on every stage: gradients are reduced, the optimizer steps, weights are gathered."""
    found = {}
    for stage, (collectives, num_bytes) in work.updates.items():
        spans = work.spans[stage.module]
        reduced = sum(
            collective_seconds(collective, spans.get(collective.kind, ALONE), rates) for collective in collectives
        )
        found[stage] = reduced + num_bytes / rates.memory
    return found


def longest_update(work: Workload, updates: Mapping[Stage, float]) -> float:
    """Seconds of the update on the rank that takes longest. A rank updates its modules one after the other."""
    return max(sum(updates[stage] for stage in stages) for stages in work.held)
