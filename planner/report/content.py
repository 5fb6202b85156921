"""What the report's page shows, as one frozen value. It becomes the JSON inside the page field by field.

Modules, stages and units are named by their index in `Report.modules`, and in the timeline's `rows`. Whoever has
numbers (memory, traffic, a predicted timeline) fills in the classes here; a section without content is left out of
the page. Bytes are bytes, times are seconds.
"""

from __future__ import annotations

from ..base.frozen import frozen


@frozen
class KeyFigure:
    """A headline number: `Step time`, `812 ms`, `24 microbatches`. `tone`: `good`, `bad`, or empty for neither."""

    label: str
    value: str
    note: str = ""
    tone: str = ""


@frozen
class Notice:
    """A warning as the planner words it, or a problem: why the plan will not run as it is, and what would help."""

    text: str
    is_problem: bool = False


@frozen(kw_only=True)
class Sizes:
    """Size of the axes that a Place has coords on."""

    stage: int
    lane: int
    cp: int
    tp: int


@frozen(kw_only=True)
class ModuleRow:
    name: str
    ranks: str
    num_ranks: int
    axes: str
    sizes: Sizes
    model: str
    notes: str


@frozen
class Place:
    """Where a rank stands in one module: its coords."""

    module: int
    stage: int
    lane: int
    cp: int
    tp: int


@frozen
class Cell:
    """One GPU of the rank map."""

    rank: int
    places: tuple[Place, ...]


@frozen
class NodeRow:
    name: str
    cells: tuple[Cell, ...]


@frozen(kw_only=True)
class StageRow:
    """All ranks of one stage together: the rank map of a world too large to show every GPU.

    Attributes:
        ranks, nodes: in words, which may name the ends alone.
        runs: the first and last of each run of ranks, all of them.
    """

    module: int
    stage: int
    ranks: str
    num_ranks: int
    nodes: str
    runs: tuple[tuple[int, int], ...]


@frozen(kw_only=True)
class EdgeRow:
    """A bridge. `lines`: what moves, in words."""

    src: int
    dst: int
    ratio: str
    lines: tuple[str, ...]


@frozen
class MemoryPart:
    """`weights`, `gradients`, `optimizer`, `activations`, `communicators` ..., in bytes."""

    name: str
    bytes: float


@frozen(kw_only=True)
class MemoryBar:
    """The peak of one kind of ranks. `where`: `language stage 0`; `num_ranks`: how many are alike.

    All bars of a page name the same parts in the same order, also those of 0 bytes: a part has its own colour.
    """

    module: int
    where: str
    num_ranks: int
    parts: tuple[MemoryPart, ...]


@frozen(kw_only=True)
class MemoryPanel:
    """Peaks, and what the GPU has; None where the cluster does not name it."""

    gpu: str
    limit: float | None
    bars: tuple[MemoryBar, ...]


@frozen(kw_only=True)
class TrafficRow:
    """Bytes of one kind of group or bridge per optimizer step. `wire`: `NVLink`, `network`."""

    owner: str
    kind: str
    what: str
    wire: str
    bytes_per_rank: float
    seconds: float | None = None


@frozen(kw_only=True)
class TimelineRow:
    """One unit of the timeline. Operations are columns, in the order in which they run.

    Attributes:
        name, ranks: `language stage 0`, `ranks 0-7`.
        num_ranks: GPUs in the unit.
        in_flight: microbatches held at the fullest.
        busy: part of the step in which the unit computes, 0 to 1.
        waits: what it waits for, longest first, in words.
        modules, stages: per operation.
        microbatches: per operation.
        backward: per operation, 0 or 1.
        starts, ends: per operation, in ticks of `TimelineContent.tick` seconds.
        reasons: per operation, index into `TimelineContent.reasons`, or -1 where nothing was waited for.
        critical: indices of the operations on the critical path.
    """

    name: str
    ranks: str
    num_ranks: int
    in_flight: int
    busy: float
    waits: tuple[str, ...]
    modules: tuple[int, ...]
    stages: tuple[int, ...]
    microbatches: tuple[int, ...]
    backward: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    reasons: tuple[int, ...]
    critical: tuple[int, ...]


@frozen(kw_only=True)
class TimelineContent:
    """The pipeline of one step.

    Attributes:
        is_predicted: whether times are predicted seconds; else a forward pass of any stage is 1 and the page says so.
        tick: seconds (or passes) of one tick.
        num_left_out: rows that are not shown, as the page would grow too large.
    """

    is_predicted: bool
    tick: float
    makespan: int
    bubble: float
    rows: tuple[TimelineRow, ...]
    num_left_out: int
    reasons: tuple[str, ...]
    path: tuple[str, ...]


@frozen(kw_only=True)
class Report:
    """Everything on the page.

    Attributes:
        title: the name of the spec.
        summary: one line: ranks, nodes, layout.
        num_ranks: of the world.
        facts: headline numbers.
        nodes: every GPU; empty where there are too many, then `stages` stand for them.
        notices: problems, then warnings.
    """

    title: str
    summary: str
    num_ranks: int
    digest: str
    facts: tuple[KeyFigure, ...]
    modules: tuple[ModuleRow, ...]
    nodes: tuple[NodeRow, ...]
    stages: tuple[StageRow, ...]
    edges: tuple[EdgeRow, ...]
    memory: MemoryPanel | None
    timeline: TimelineContent | None
    traffic: tuple[TrafficRow, ...]
    notices: tuple[Notice, ...]
