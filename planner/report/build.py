"""A plan, and what is known of its cost -> the content of the report.

Everything that follows from the plan is worked out here; memory, traffic and the timeline are handed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..base.axes import Axis
from ..base.frozen import frozen
from ..base.printable import printable
from ..base.runs import runs, runs_text
from ..cost.simulation.schedule import Call, Stage
from ..cost.simulation.timeline import PASS, Timeline, stage_passes
from ..cost.simulation.words import critical_path
from ..cost.simulation.words import duration as seconds_in_words
from ..cost.timing.bounds import MAX_RANKS
from ..cost.timing.group_spans import gpus_per_node
from ..layout.ir import Bridge, Direction, GroupKind, ModulePlan
from ..plan import Plan
from ..render.bridges import bridge_lines
from ..render.overview import MAX_BRIDGES, model_name, module_notes
from ..render.style import Style, plural
from .content import (
    Cell,
    EdgeRow,
    KeyFigure,
    MemoryPanel,
    ModuleRow,
    NodeRow,
    Notice,
    Place,
    Report,
    Sizes,
    StageRow,
    TimelineContent,
    TimelineRow,
    TrafficRow,
)
from .typeset import typeset

MAX_CELLS = 4096  # a larger world is drawn by stage, not GPU by GPU
MAX_OPERATIONS = 150_000  # operations in the page: about 5 MB
_TICKS = 10_000_000  # ticks in a makespan: one is a tenth of a pixel at a zoom of 1,000
_MAX_WAITS = 3  # reasons shown for each unit


def build_report(
    plan: Plan,
    name: str,
    *,
    timeline: Timeline | None = None,
    is_predicted: bool = True,
    memory: MemoryPanel | None = None,
    traffic: tuple[TrafficRow, ...] = (),
    facts: tuple[KeyFigure, ...] = (),
    notices: tuple[Notice, ...] = (),
) -> Report:
    """The content of the page.

    Args:
        plan: the layout.
        name: the name of the spec, for the title.
        timeline: the pipeline of one step.
        is_predicted: whether the timeline's times are predicted seconds; else every forward pass takes 1.
        memory, traffic: what the cost model predicts.
        facts: headline numbers to show before those of the plan and the timeline.
        notices: problems and warnings to show before the plan's own warnings.
    """
    small = plan.world_size <= MAX_CELLS
    return Report(
        title=printable(name),
        summary=_summary(plan),
        num_ranks=plan.world_size,
        digest=plan.digest,
        facts=(*facts, *_facts(plan, timeline)),
        modules=tuple(map(_module, plan.modules)),
        nodes=tuple(_nodes(plan)) if small else (),
        stages=() if small or plan.world_size > MAX_RANKS else tuple(_stages(plan)),
        edges=tuple(_edge(plan, bridge) for bridge in plan.bridges[:MAX_BRIDGES]),
        memory=memory,
        timeline=_timeline(plan, timeline, is_predicted) if timeline else None,
        traffic=traffic,
        notices=(*notices, *_left_out(plan), *(Notice(str(warning)) for warning in plan.warnings)),
    )


def _left_out(plan: Plan) -> Iterator[Notice]:
    if plan.world_size > MAX_RANKS:
        yield Notice(f"the ranks of stages are left out above {MAX_RANKS:,} ranks")
    if len(plan.bridges) > MAX_BRIDGES:
        yield Notice(f"{len(plan.bridges) - MAX_BRIDGES:,} more bridges are left out above {MAX_BRIDGES}")


def _summary(plan: Plan) -> str:
    nodes = f" on {plural(plan.num_nodes, 'node')} of {plan.gpus_per_node}" if plan.num_nodes else ""
    return f"{plural(plan.world_size, 'GPU')}{nodes}, {plan.layout.value.replace('_', '-')}"


def _facts(plan: Plan, timeline: Timeline | None) -> Iterator[KeyFigure]:
    batch = plan.batch
    yield KeyFigure("GPUs", f"{plan.world_size:,}", plural(plan.num_nodes, "node") if plan.num_nodes else "")
    yield KeyFigure("Samples per step", f"{batch.global_size:,}", f"{batch.num_microbatches:,} × {batch.micro_size:,}")
    yield KeyFigure("Pipeline stages", f"{plan.pipeline.num_stages}", "on the longest path")
    if timeline:
        yield KeyFigure("Bubble", f"{timeline.bubble:.1%}", "of all GPU time")


# ---- modules, ranks, bridges


def _module(module: ModulePlan) -> ModuleRow:
    grid = module.grid
    sizes = ((axis, grid.size_of(axis)) for axis in Axis)
    return ModuleRow(
        name=module.name,
        ranks=runs_text(module.ranks),
        num_ranks=grid.size,
        axes=" ".join(f"{axis} {size}" for axis, size in sizes if size > 1 and axis is not Axis.EXPT_DP) or "one rank",
        sizes=Sizes(stage=grid.num_stages, lane=grid.num_lanes, cp=grid.size_of(Axis.CP), tp=grid.size_of(Axis.TP)),
        model=model_name(module) if module.model else "",
        notes=" ".join(module_notes(module)),
    )


def _nodes(plan: Plan) -> Iterator[NodeRow]:
    per_row = gpus_per_node(plan)
    for number, start in enumerate(range(0, plan.world_size, per_row)):
        stop = min(start + per_row, plan.world_size)
        label = f"node {number}" if plan.gpus_per_node else f"ranks {start}-{stop - 1}"
        yield NodeRow(label, tuple(Cell(rank, tuple(_places(plan, rank))) for rank in range(start, stop)))


def _places(plan: Plan, rank: int) -> Iterator[Place]:
    for index, module in enumerate(plan.modules):
        if rank in module.grid:
            at = module.grid.dense.coords(rank)
            yield Place(index, at[Axis.PP], at[Axis.DP], at[Axis.CP], at[Axis.TP])


def _stages(plan: Plan) -> Iterator[StageRow]:
    for index, module in enumerate(plan.modules):
        for stage, ranks in enumerate(plan.groups(module.name, GroupKind.TP_DP_CP)):
            nodes = sorted({rank // plan.gpus_per_node for rank in ranks}) if plan.gpus_per_node else []
            yield StageRow(
                module=index,
                stage=stage,
                ranks=_short(ranks),
                num_ranks=len(ranks),
                nodes=_short(nodes) if nodes else "",
                runs=tuple(runs(ranks)),
            )


def _short(numbers: Sequence[int]) -> str:
    """`0-3, 8`; if there are many runs, how many numbers there are, the first and the last."""
    text = runs_text(numbers)
    return text if text.count(",") <= 2 else f"{len(numbers):,} from {numbers[0]} to {numbers[-1]}"


def _edge(plan: Plan, bridge: Bridge) -> EdgeRow:
    names = [module.name for module in plan.modules]
    title, *lines = bridge_lines(plan, bridge, Style(width=76))
    return EdgeRow(
        src=names.index(bridge.src),
        dst=names.index(bridge.dst),
        ratio=title.partition(": ")[2],
        lines=tuple(line.removeprefix("    ") for line in lines),
    )


# ---- timeline


def _timeline(plan: Plan, timeline: Timeline, is_predicted: bool) -> TimelineContent:
    shown = _rows_shown(timeline)
    tick = timeline.makespan / _TICKS if timeline.makespan else 1.0
    names = {module.name: index for index, module in enumerate(plan.modules)}
    critical = frozenset(
        (segment.where.module, segment.where.index, segment.direction is Direction.BACKWARD, segment.microbatch)
        for segment in timeline.path
        if isinstance(segment.where, Stage)
    )
    shared = _Shared(timeline, tick, names, {}, critical, is_predicted)
    rows = tuple(_row(shared, index) for index in shown)
    return TimelineContent(
        is_predicted=is_predicted,
        tick=tick,
        makespan=round(timeline.makespan / tick),
        bubble=timeline.bubble,
        rows=rows,
        num_left_out=len(timeline.tracks) - len(shown),
        reasons=tuple(map(typeset, shared.reasons)),
        path=tuple(map(typeset, critical_path(timeline))) if is_predicted else (),
    )


def _rows_shown(timeline: Timeline) -> list[int]:
    """The units to show: all of them, or, if the page would grow too large, a selection at even distances.

    The first and the last unit are always shown.
    """
    total = len(timeline.tracks)
    per_unit = -(-timeline.num_operations // total)
    most = max(2, MAX_OPERATIONS // per_unit)
    return list(range(total)) if total <= most else sorted({i * (total - 1) // (most - 1) for i in range(most)})


@frozen
class _Shared:
    """What the rows of one timeline have in common. `reasons` numbers each reason when a row first names it."""

    timeline: Timeline
    tick: float
    names: dict[str, int]
    reasons: dict[str, int]
    critical: frozenset[tuple[str, int, bool, int]]  # the passes of its path: module, stage, backward, microbatch
    is_predicted: bool


def _row(shared: _Shared, index: int) -> TimelineRow:
    timeline, names = shared.timeline, shared.names
    unit = timeline.schedule.units[index]
    passes = list(stage_passes(unit, timeline.schedule.num_microbatches))
    starts, ends, reasons = _spans(shared, index)
    waits = list(timeline.waits(index).items())[:_MAX_WAITS]
    return TimelineRow(
        name=str(unit),
        ranks=f"ranks {_short(unit.ranks)}" if len(unit.ranks) > 1 else f"rank {unit.ranks[0]}",
        num_ranks=len(unit.ranks),
        in_flight=timeline.in_flight[index],
        busy=timeline.busy[index] / timeline.makespan if timeline.makespan else 0.0,
        waits=tuple(typeset(f"{_amount(seconds, shared.is_predicted)} for {reason}") for reason, seconds in waits),
        modules=tuple(names[stage.module] for _, stage, _ in passes),
        stages=tuple(stage.index for _, stage, _ in passes),
        microbatches=tuple(microbatch for _, _, microbatch in passes),
        backward=tuple(int(call is Call.BACKWARD) for call, _, _ in passes),
        starts=starts,
        ends=ends,
        reasons=reasons,
        critical=tuple(
            at
            for at, (call, stage, microbatch) in enumerate(passes)
            if (stage.module, stage.index, call is Call.BACKWARD, microbatch) in shared.critical
        ),
    )


def _spans(shared: _Shared, index: int) -> tuple[tuple[int, ...], ...]:
    """When the operations of a unit begin and end, in ticks, and the number of what each waited for longest, or -1.

    There may be 150,000: `Timeline.operations`, which says the same, would take half a second to make its objects.
    """
    timeline, tick, numbers = shared.timeline, shared.tick, shared.reasons
    starts, ends, reasons = [], [], []
    longest, waited_for = 0.0, PASS
    for start, end, code in timeline.tracks[index]:
        if code != PASS:
            if end - start > longest:
                longest, waited_for = end - start, code
            continue
        starts.append(round(start / tick))
        ends.append(round(end / tick))
        words = str(timeline.reasons[waited_for]) if longest else ""
        reasons.append(numbers.setdefault(words, len(numbers)) if words else -1)
        longest = 0.0
    return tuple(starts), tuple(ends), tuple(reasons)


def _amount(seconds: float, is_predicted: bool) -> str:
    return seconds_in_words(seconds) if is_predicted else f"{seconds:.4g} passes"
