"""Plan -> prediction: what a step takes. Only this file knows the order of the calculations."""

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
from .timing.step_time import interleaved, step_seconds
from .timing.timing import Rates, collective_seconds, rates_of
from .timing.workload import Workload, durations_of, longest_update, update_seconds, workload_of
from .work.facts import StageFacts, facts_of_stage
from .work.layers import FLASH_BACKWARD
from .work.ops import Collective
from .work.settings import Settings
from .work.stages import stage_work


def predict(plan: Plan, hardware: Hardware | None = None, settings: Settings | None = None) -> Prediction:
    """Predict what a step of a plan takes.

    Args:
        plan: the plan; modules without a model cost nothing.
        hardware: the GPU; if left out, the one that the spec's cluster names, or h100 if it names none.
        settings: what is assumed of the training software; if left out, `Settings()`.

    Raises:
        PlanError: the spec names an unknown GPU, or a hardware file that has faults.
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
        remedies=remedies(
            plan, largest, hardware.memory_bytes, work.settings, lambda other: price(other, hardware, work.settings)
        ),
        timeline=timeline,
        deadlock=deadlock,
        pipeline_seconds=interleaved(work, durations, timeline.makespan) if timeline else inf,
        update_seconds=longest_update(work, updates),
        model_flops=model_flops(plan),
        tokens=plan.batch.global_size * plan.batch.seq_length,
        num_microbatches=plan.batch.num_microbatches,
        world_size=plan.world_size,
    )


def price(plan: Plan, hardware: Hardware, settings: Settings) -> float:
    """Seconds of a step, to rounding those that `predict` gives; infinite if the schedule stops for good.

    Raises:
        PlanError: the plan is too large to be predicted.
    """
    try:
        return step_seconds(workload_of(plan, settings), rates_of(hardware))
    except DeadlockError:
        return inf


def _simulated(plan: Plan, durations: Durations) -> tuple[Timeline | None, str]:
    """(the simulated pipeline, ""), or (None, which unit waits for which) if the schedule stops for good."""
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
    """FLOPs that the mathematics of a step needs, whatever the layout: each module on one rank, nothing computed twice.

    After Chowdhery et al. 2022 (PaLM), appendix B, but causal attention counts half of the square of scores. Frozen
    parts count what the gradients that pass through them need.
    """
    total = 0.0
    for module in plan.modules:
        if module.stages is None:
            continue
        grid = Grid(rank_offset=0, order=module.grid.order, sizes=(1,) * len(module.grid.order))
        whole = attrs.evolve(module, grid=grid, stages=(sum(module.stages),), recompute="none")
        for part in stage_work(plan, facts_of_stage(plan, whole, 0, Settings())).parts:
            again = part.backward.core_flops * (1 - 2 / FLASH_BACKWARD)  # flash attention recomputes its scores
            total += module.grid.num_lanes * part.count * (part.forward.flops + part.backward.flops - again)
    return total * plan.batch.num_microbatches


def _traffic(work: Workload, module: ModulePlan, index: int, rates: Rates) -> tuple[StageTraffic, ...]:
    """Bytes that one rank sends in a step, by kind of group."""
    num, spans, stage = work.plan.batch.num_microbatches, work.spans[module.name], Stage(module.name, index)
    sums: dict[str, StageTraffic] = {}

    def add(collective: Collective, span: Span, times: int) -> None:
        kind = str(collective.kind)
        so_far = sums.get(kind, StageTraffic(kind=kind, collectives=0, num_bytes=0.0, link="nvlink", seconds=0.0))
        sums[kind] = StageTraffic(
            kind=kind,
            collectives=so_far.collectives + times * collective.count,
            num_bytes=so_far.num_bytes + times * collective.moved(span.size),
            link="network" if span.crosses else so_far.link,
            seconds=so_far.seconds + times * collective_seconds(collective, span, rates),
        )

    for part in work.works[stage].parts:
        for collective in part.forward.collectives + part.backward.collectives:
            add(collective, spans.get(collective.kind, ALONE), num * part.count)
    for collective in work.updates[stage][0]:
        add(collective, spans.get(collective.kind, ALONE), 1)
    for first in (Stage(module.name, index - 1), stage):  # gradients to the stage before, activations to the next
        if first in work.hops:
            add(*work.hops[first], num)
    return tuple(traffic for traffic in sums.values() if traffic.num_bytes)
