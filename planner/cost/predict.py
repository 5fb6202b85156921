"""Plan -> prediction: what a step takes. The one file that knows the order of the parts."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import attrs

from ..layout.ir import Direction, Grid, ModulePlan
from ..plan import Plan
from .memory.memory import stage_memory
from .memory.peaks import first_rank, peaks, position_at
from .memory.remedies import remedies
from .prediction import Prediction, StageCost, StageTraffic
from .simulation.durations import Durations
from .simulation.schedule import Stage
from .simulation.simulate import DeadlockError, simulate
from .simulation.timeline import Timeline
from .timing.bridges import bridge_cost
from .timing.group_spans import ALONE, Span
from .timing.hardware import DEFAULT, Hardware, load_hardware
from .timing.step_time import interleaved
from .timing.timing import Rates, collective_seconds, rates_of
from .timing.workload import Workload, durations_of, longest_update, update_seconds, workload_of
from .work.facts import StageFacts, facts_of_stage
from .work.layers import FLASH_BACKWARD
from .work.ops import Collective
from .work.settings import Settings
from .work.stages import stage_work


def predict(plan: Plan, hardware: Hardware | None = None, settings: Settings | None = None) -> Prediction:
    """What a plan will take.

    Args:
        plan: the layout; modules without a model cost nothing.
        hardware: the GPU; else the one that the spec's cluster names, else h100.
        settings: what is assumed of the training software.

    Raises:
        PlanError: the spec names a GPU that is not known.
    """
    gpu_given = hardware is not None or plan.gpu is not None
    hardware = hardware or load_hardware(plan.gpu or DEFAULT)
    rates, work = rates_of(hardware), workload_of(plan, settings)
    durations, updates = durations_of(work, rates), update_seconds(work, rates)
    timeline, deadlock = _simulated(plan, durations)
    largest = peaks(plan, work.settings, work.facts)
    return Prediction(
        hardware=hardware,
        settings=work.settings,
        gpu_given=gpu_given,
        nodes_given=plan.gpus_per_node is not None,
        dtype=plan.training.dtype,
        unsized=tuple(module.name for module in plan.modules if module.model is None),
        stages=tuple(_stage_cost(work, facts, durations, updates, rates) for facts in work.facts.values()),
        bridges=tuple(bridge_cost(bridge, work.crossings[bridge.src, bridge.dst], rates) for bridge in plan.bridges),
        peaks=largest,
        remedies=remedies(plan, largest, hardware, work.settings),
        timeline=timeline,
        deadlock=deadlock,
        pipeline_seconds=interleaved(work, durations, timeline.makespan) if timeline else inf,
        update_seconds=longest_update(work, updates),
        model_flops=model_flops(plan),
        tokens=plan.batch.global_size * plan.batch.seq_length,
        num_microbatches=plan.batch.num_microbatches,
        world_size=plan.world_size,
    )


def _simulated(plan: Plan, durations: Durations) -> tuple[Timeline | None, str]:
    try:
        return simulate(plan, durations), ""
    except DeadlockError as error:
        return None, str(error)


def _stage_cost(
    work: Workload, facts: StageFacts, durations: Durations, updates: Mapping[Stage, float], rates: Rates
) -> StageCost:
    module, index = facts.module, facts.index
    stage, rank = Stage(module.name, index), first_rank(module, index)
    return StageCost(
        module=module.name,
        stage=index,
        first_rank=rank,
        num_ranks=module.grid.size // module.num_stages,
        num_layers=facts.num_layers,
        parameters=facts.parameters,
        memory=stage_memory(work.plan, facts, position=position_at(work.plan, rank)),
        forward_seconds=durations.passes[stage, Direction.FORWARD],
        backward_seconds=durations.passes[stage, Direction.BACKWARD],
        update_seconds=updates[stage],
        forward_flops=work.works[stage].forward_flops,
        backward_flops=work.works[stage].backward_flops,
        traffic=_traffic(work, module, index, rates),
    )


def model_flops(plan: Plan) -> float:
    """FLOPs that a step's mathematics needs, whatever the layout: each module on one rank, nothing computed twice.

    Chowdhery et al. 2022 (PaLM), appendix B; causal attention counts half of its square. Frozen parts count what their
    gradients need.
    """
    total = 0.0
    for module in plan.modules:
        if module.stages is None:
            continue
        grid = Grid(rank_offset=0, order=module.grid.order, sizes=(1,) * len(module.grid.order))
        whole = attrs.evolve(module, grid=grid, stages=(sum(module.stages),), recompute="none")
        for part in stage_work(plan, facts_of_stage(plan, whole, 0, Settings())).parts:
            again = part.backward.core_flops * (1 - 2 / FLASH_BACKWARD)  # scores that flash attention recomputes
            total += module.grid.num_lanes * part.count * (part.forward.flops + part.backward.flops - again)
    return total * plan.batch.num_microbatches


def _traffic(work: Workload, module: ModulePlan, index: int, rates: Rates) -> tuple[StageTraffic, ...]:
    """Bytes that one rank sends in a step, by kind of group."""
    num, spans, stage = work.plan.batch.num_microbatches, work.spans[module.name], Stage(module.name, index)
    sums: dict[str, StageTraffic] = {}

    def add(message: Collective, span: Span, times: int) -> None:
        kind = str(message.kind)
        before = sums.get(kind, StageTraffic(kind=kind, collectives=0, num_bytes=0.0, link="nvlink", seconds=0.0))
        sums[kind] = StageTraffic(
            kind=kind,
            collectives=before.collectives + times * message.count,
            num_bytes=before.num_bytes + times * message.moved(span.size),
            link="network" if span.crosses else before.link,
            seconds=before.seconds + times * collective_seconds(message, span, rates),
        )

    for part in work.works[stage].parts:
        for message in part.forward.collectives + part.backward.collectives:
            add(message, spans.get(message.kind, ALONE), num * part.count)
    for message in work.updates[stage][0]:
        add(message, spans.get(message.kind, ALONE), 1)
    for before in (Stage(module.name, index - 1), stage):  # a microbatch's gradients go back, and itself on
        if before in work.hops:
            add(*work.hops[before], num)
    return tuple(traffic for traffic in sums.values() if traffic.num_bytes)
