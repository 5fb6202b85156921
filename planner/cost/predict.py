"""Plan -> prediction: what every stage of every module takes. The one file that knows the order of the parts.

Ranks of a stage are alike, so everything is computed once per module and stage; a plan of 1,024 ranks costs what one
of 8 does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from ..axes import Axis
from ..ir import GroupKind, ModulePlan
from ..plan import Plan
from .bridging import BridgeCost, bridge_cost
from .hardware import DEFAULT, Hardware, load_hardware
from .links import ALONE, Span, hop_crosses, spans_of
from .memory import Memory, stage_memory
from .pipeline import Times, makespan
from .ranks import RankMemory, first_rank, peaks
from .remedies import remedies
from .settings import Settings
from .sizes import Parameters, stage_parameters
from .stages import language_width, stage_work
from .step import parameter_bytes, step_messages, update_bytes
from .timing import Rates, Spans, message_seconds, rates_of, stage_seconds
from .tokens import tokens_of
from .work import Collective, Message, StageWork


@attrs.frozen(kw_only=True)
class Traffic:
    """What one rank of a stage sends over its groups of a kind, in a whole step.

    Attributes:
        kind: the groups' kind; `pp` for the hops between stages.
        collectives: how often anything is sent.
        num_bytes: that leave the rank.
        link: `nvlink` or `network`, what a ring over the group is limited by.
    """

    kind: str
    collectives: int
    num_bytes: float
    link: str


@attrs.frozen(kw_only=True)
class StageCost:
    """One stage of one module, as each of its ranks has it. Seconds and FLOPs of one microbatch of its lane."""

    module: str
    stage: int
    first_rank: int
    num_ranks: int
    num_layers: int
    parameters: Parameters
    memory: Memory
    forward_seconds: float
    backward_seconds: float
    step_seconds: float
    forward_flops: float
    backward_flops: float
    traffic: tuple[Traffic, ...]


@attrs.frozen(kw_only=True)
class Prediction:
    """What a step costs.

    Attributes:
        hardware: the GPU assumed.
        stages: every stage of every module, in plan order.
        bridges: every edge.
        peaks: per module, its rank that needs most memory.
        remedies: where something does not fit, what would make it fit.
        pipeline_seconds: from the first forward to the last backward pass.
        update_seconds: reduction of gradients, optimizer, gathering of weights.
        model_flops: of a step, all ranks together, recomputation left out.
        tokens: of language per step.
        world_size: ranks.
        busy_share: busy time of the average rank over `pipeline_seconds`.
    """

    hardware: Hardware
    stages: tuple[StageCost, ...]
    bridges: tuple[BridgeCost, ...]
    peaks: tuple[RankMemory, ...]
    remedies: tuple[str, ...]
    pipeline_seconds: float
    update_seconds: float
    model_flops: float
    tokens: int
    world_size: int
    busy_share: float

    @property
    def step_seconds(self) -> float:
        return self.pipeline_seconds + self.update_seconds

    @property
    def bubble(self) -> float:
        """Share of the pipeline's time in which the average rank computes nothing."""
        return 1 - self.busy_share

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.step_seconds if self.step_seconds else 0.0

    @property
    def tflops_per_gpu(self) -> float:
        return self.model_flops / self.step_seconds / self.world_size / 1e12 if self.step_seconds else 0.0

    @property
    def mfu(self) -> float:
        """Model FLOPs over what the data sheet promises."""
        return self.tflops_per_gpu / self.hardware.peak_tflops.value

    @property
    def fits(self) -> bool:
        return all(self.spare(peak) >= 0 for peak in self.peaks)

    def spare(self, peak: RankMemory) -> float:
        """Bytes of the GPU that a rank leaves."""
        return self.hardware.memory_gib.value * 2**30 - peak.total


@attrs.frozen(kw_only=True)
class Workload:
    """All of a plan that does not depend on the GPU's constants: counted once, timed as often as wanted."""

    plan: Plan
    settings: Settings
    works: Mapping[tuple[str, int], StageWork]
    spans: Mapping[str, Spans]
    hops: Mapping[str, tuple[Message, Span] | None]
    steps: Mapping[tuple[str, int], tuple[tuple[Message, ...], float]]


def workload_of(plan: Plan, settings: Settings | None = None) -> Workload:
    """Count the work of every stage of a plan."""
    settings = settings or Settings()
    works: dict[tuple[str, int], StageWork] = {}
    steps, hops = {}, {}
    for module, stage in _stages(plan):
        key = (module.name, stage)
        same = works.get((module.name, stage - 1)) if _like_the_one_before(module, stage) else None
        works[key] = same or stage_work(plan, module, stage, settings)
        parameters = stage_parameters(module, stage, language_width(plan))
        messages = step_messages(plan, module, stage, parameters, settings)
        steps[key] = (messages, update_bytes(plan, module, parameters, settings))
    for module in plan.modules:
        hops[module.name] = _hop(plan, module, settings)
    spans = {module.name: spans_of(plan, module.name) for module in plan.modules}
    return Workload(plan=plan, settings=settings, works=works, spans=spans, hops=hops, steps=steps)


def _stages(plan: Plan) -> Iterable[tuple[ModulePlan, int]]:
    return ((module, stage) for module in plan.modules for stage in range(module.num_stages))


def _like_the_one_before(module: ModulePlan, stage: int) -> bool:
    layers = module.stages
    return layers is not None and 1 < stage < module.num_stages - 1 and layers[stage] == layers[stage - 1]


def _hop(plan: Plan, module: ModulePlan, settings: Settings) -> tuple[Message, Span] | None:
    """The transfer between two stages of a module: its hidden states as each rank holds them, whole or a share."""
    if module.num_stages == 1 or module.model is None:
        return None
    width = module.model.hidden_size or 0
    tp = module.grid.size_of(Axis.TP)
    shares = tp if module.sequence_parallel or settings.scattered_hops else 1
    num_bytes = parameter_bytes(plan) * tokens_of(plan, module).per_rank * width / shares
    crosses = hop_crosses(plan, module)
    return Message(GroupKind.PP, Collective.SEND, num_bytes), Span(2 if crosses else 1, 2, 1)


def times_of(work: Workload, rates: Rates) -> Times:
    """Seconds of every stage, hop and edge."""
    plan = work.plan
    several = any(span.crosses for spans in work.spans.values() for span in spans.values())
    scales_out = several or plan.world_size > (plan.gpus_per_node or plan.world_size)
    passes = {}
    for (name, stage), each in work.works.items():
        passes[name, stage] = stage_seconds(each, work.spans[name], rates, scales_out=scales_out)
    hops = {}
    for name, hop in work.hops.items():
        hops[name] = message_seconds(hop[0], hop[1], rates) if hop else 0.0
    edges = {}
    for (src, dst), bridge in zip(plan.edges, plan.bridges, strict=True):
        edges[src, dst] = bridge_cost(plan, bridge, rates).seconds
    return Times(passes=passes, hops=hops, edges=edges)


def update_seconds(work: Workload, rates: Rates) -> dict[tuple[str, int], float]:
    """Seconds of the update on every stage; stages update at the same time."""
    found = {}
    for (name, stage), (messages, num_bytes) in work.steps.items():
        spans = work.spans[name]
        reduced = sum(message_seconds(message, spans.get(message.kind, ALONE), rates) for message in messages)
        found[name, stage] = reduced + num_bytes / rates.memory
    return found


def step_seconds(work: Workload, rates: Rates) -> float:
    """Seconds of one step."""
    return pipeline_seconds(work, times_of(work, rates)) + max(update_seconds(work, rates).values())


def pipeline_seconds(work: Workload, times: Times) -> float:
    """From the first forward to the last backward pass. Interleaving divides what is not the slowest stage's work."""
    num, slices = work.plan.batch.num_microbatches, work.settings.stages_per_rank
    span = makespan(work.plan, times, num)
    if slices == 1:
        return span
    busy = num * max(sum(passes) for passes in times.passes.values())
    return busy + (span - busy) / slices


def predict(plan: Plan, hardware: Hardware | None = None, settings: Settings | None = None) -> Prediction:
    """What a plan will take.

    Args:
        plan: the layout; modules without a model cost nothing.
        hardware: the GPU; else the one that the spec's cluster names, else h100.
        settings: what is assumed of the training software.

    Raises:
        PlanError: the spec names a GPU that is not known.
    """
    if hardware is None:
        hardware = load_hardware(plan.cluster.gpu if plan.cluster and plan.cluster.gpu else DEFAULT)
    rates, work = rates_of(hardware), workload_of(plan, settings)
    times, updates = times_of(work, rates), update_seconds(work, rates)
    microbatches = plan.batch.num_microbatches
    stages = tuple(_stage_cost(work, module, stage, times, updates) for module, stage in _stages(plan))
    span = pipeline_seconds(work, times)
    busy = sum(cost.num_ranks * (cost.forward_seconds + cost.backward_seconds) for cost in stages) * microbatches
    largest = peaks(plan, work.settings)
    return Prediction(
        hardware=hardware,
        stages=stages,
        bridges=tuple(bridge_cost(plan, bridge, rates) for bridge in plan.bridges),
        peaks=largest,
        remedies=remedies(plan, largest, hardware, work.settings),
        pipeline_seconds=span,
        update_seconds=max(updates.values()),
        model_flops=_model_flops(plan, work) * microbatches,
        tokens=plan.batch.global_size * plan.batch.seq_length,
        world_size=plan.world_size,
        busy_share=busy / (plan.world_size * span) if span else 0.0,
    )


def _stage_cost(
    work: Workload,
    module: ModulePlan,
    stage: int,
    times: Times,
    updates: Mapping[tuple[str, int], float],
) -> StageCost:
    key = (module.name, stage)
    forward, backward = times.passes[key]
    per_stage = module.grid.size // module.num_stages
    return StageCost(
        module=module.name,
        stage=stage,
        first_rank=first_rank(module, stage),
        num_ranks=per_stage,
        num_layers=module.stages[stage] if module.stages else 0,
        parameters=stage_parameters(module, stage, language_width(work.plan)),
        memory=stage_memory(work.plan, module, stage, work.settings),
        forward_seconds=forward,
        backward_seconds=backward,
        step_seconds=updates[key],
        forward_flops=work.works[key].forward_flops,
        backward_flops=work.works[key].backward_flops,
        traffic=_traffic(work, module, stage),
    )


def _model_flops(plan: Plan, work: Workload) -> float:
    """Of one microbatch, all ranks together, as if nothing were computed again."""
    total = 0.0
    for module, stage in _stages(plan):
        plain = attrs.evolve(module, recompute="none")
        same = module.recompute == "none" or module.model is None
        each = work.works[module.name, stage] if same else stage_work(plan, plain, stage, work.settings)
        total += (each.forward_flops + each.backward_flops) * (module.grid.size // module.num_stages)
    return total


def _traffic(work: Workload, module: ModulePlan, stage: int) -> tuple[Traffic, ...]:
    """Bytes that one rank sends in a step, by kind of group."""
    num, spans = work.plan.batch.num_microbatches, work.spans[module.name]
    sums: dict[str, tuple[int, float, bool]] = {}

    def add(message: Message, span: Span, times: int) -> None:
        count, total, crosses = sums.get(message.kind, (0, 0.0, False))
        moved = times * message.moved(span.size)
        sums[str(message.kind)] = (count + times * message.count, total + moved, crosses or span.crosses)

    for part in work.works[module.name, stage].parts:
        for message in part.forward.messages + part.backward.messages:
            add(message, spans.get(message.kind, ALONE), num * part.count)
    for message in work.steps[module.name, stage][0]:
        add(message, spans.get(message.kind, ALONE), 1)
    hop = work.hops[module.name]
    if hop:
        add(hop[0], hop[1], num * ((stage > 0) + (stage < module.num_stages - 1)))
    return tuple(
        Traffic(kind=kind, collectives=count, num_bytes=total, link="network" if crosses else "nvlink")
        for kind, (count, total, crosses) in sums.items()
        if total
    )
