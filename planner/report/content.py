"""What the report's page shows, as one frozen value, which becomes the JSON inside the page field by field.

A module is named by its index in `Report.modules`, a stage by its index in its module. A section without content is
left out of the page. Sizes of memory and traffic are in bytes, times in seconds unless a field says otherwise.

The page's scripts see these classes as `page/content.d.ts`, which a test compares with them.
"""

from __future__ import annotations

from ..base.frozen import frozen


@frozen
class KeyFigure:
    """A headline number, such as `Step time`, `812 ms`, `790 ms pipeline, 22 ms update`.

    Attributes:
        tone: `good`, `bad`, or empty if it is neither.
    """

    label: str
    value: str
    note: str = ""
    tone: str = ""


@frozen
class Notice:
    """A warning in the planner's words, or a problem: why the plan will not run as it is, and what would help."""

    text: str
    is_problem: bool = False


@frozen(kw_only=True)
class Sizes:
    """The size of each axis on which a Place has a coord."""

    stage: int
    lane: int
    cp: int
    tp: int


@frozen(kw_only=True)
class ModuleRow:
    """A module in words.

    Attributes:
        ranks: its ranks as spans, such as `0-3, 8`.
        axes: the axes larger than 1 with their sizes, such as `tp 2 dp 4`.
        model: the preset, or the family with its size; empty if the spec gives neither.
        notes: what is unusual, such as frozen parts or recomputation.
    """

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
    """One node of the rank map: `node 3`, or `ranks 24-31` if the spec does not say how large a node is."""

    name: str
    cells: tuple[Cell, ...]


@frozen(kw_only=True)
class StageRow:
    """All ranks of one stage together: a row of the rank map if the world is too large to show every GPU.

    Attributes:
        ranks, nodes: their numbers in words; of many runs only the first and the last number.
        runs: the first and the last rank of every run of consecutive ranks.
    """

    module: int
    stage: int
    ranks: str
    num_ranks: int
    nodes: str
    runs: tuple[tuple[int, int], ...]


@frozen(kw_only=True)
class EdgeRow:
    """A bridge.

    Attributes:
        src, dst: indices of the modules that it joins.
        ratio: its lanes on either side, such as `fan-in, 2 lanes to 1, 2 transfers`.
        lines: what moves, in words.
    """

    src: int
    dst: int
    ratio: str
    lines: tuple[str, ...]


@frozen
class MemoryPart:
    """The bytes that one purpose takes, such as `activations` or `communicators`."""

    name: str
    bytes: float


@frozen(kw_only=True)
class MemoryBar:
    """The peak of all ranks that hold the same stages.

    All bars of a page name the same parts in the same order, even parts of 0 bytes, so that a part has one colour.

    Attributes:
        module: index of the module that gives the bar its colour.
        where: the stages that these ranks hold, such as `language stage 0`, joined by ` + `.
        num_ranks: how many ranks there are of this kind.
    """

    module: int
    where: str
    num_ranks: int
    parts: tuple[MemoryPart, ...]


@frozen(kw_only=True)
class MemoryPanel:
    """Peaks beside the memory of the GPU: `limit`, which is None if the cluster does not name a GPU."""

    gpu: str
    limit: float | None
    bars: tuple[MemoryBar, ...]


@frozen(kw_only=True)
class TrafficRow:
    """What one GPU sends over one kind of group, or over one bridge, per optimizer step.

    Attributes:
        owner: the stages or the bridge, such as `language stages 0-3`.
        kind: the kind of group, or `bridge` with its strategy.
        what: what is sent, in words.
        wire: `NVLink` or `network`.
        seconds: the time that it takes; None if that is not predicted.
    """

    owner: str
    kind: str
    what: str
    wire: str
    bytes_per_rank: float
    seconds: float | None = None


@frozen(kw_only=True)
class TimelineRow:
    """One unit of the simulation. Its operations are columns, with one entry each in the order in which they run.

    Attributes:
        name, ranks: the unit in words, such as `language stage 0` and `ranks 0-7`.
        num_ranks: number of GPUs in the unit.
        in_flight: the most microbatches whose activations it holds at once.
        busy: the share of the step in which the unit computes, 0 to 1.
        waits: what it waits for longest, in words, longest first.
        modules, stages, microbatches: what each operation computes.
        backward: 1 for a backward pass, 0 for a forward pass.
        starts, ends: the time of each operation, in ticks.
        reasons: index into `TimelineContent.reasons` of what each operation waited for; -1 if it did not wait.
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
        is_predicted: whether times are predicted seconds; else every forward pass takes 1, and the page says so.
        tick: length of a tick, in seconds or in forward passes.
        makespan: length of the step, in ticks.
        bubble: the share of all GPU time in which nothing is computed, 0 to 1.
        num_left_out: number of units that are not shown because the page would grow too large.
        reasons: what operations waited for, in words.
        path: what the critical path consists of, in words; empty if times are not predicted.
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
        summary: ranks, nodes and layout in one line.
        num_ranks: the size of the world.
        facts: headline numbers, the most important first.
        nodes: every GPU by node; empty if there are too many to show, and then `stages` takes its place.
        memory, timeline: None if they could not be predicted or simulated.
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
