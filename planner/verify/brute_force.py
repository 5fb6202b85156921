"""Prove a plan by brute force: recompute everything that it answers, in the slow and obvious way, and compare.

The rule of this file is that it shares no arithmetic with the code that it checks. From the plan it takes what was
decided (offsets, orders, sizes, edges, batch sizes) and nothing that was derived. Ranks are seated by walking nested
loops, groups are buckets of ranks with equal coords, and samples are dealt out one by one. Only the plan's public
answers are compared, for every group, every edge and every rank.

    images: dp 2 (ranks 0 1)  ->  language: tp 2 (ranks 2 3), 4 samples
    samples dealt to images    0 0 1 1     leave from ranks 0 and 1
    samples dealt to language  0 0 0 0     arrive at rank 2, the first of its lane: transfers 0->2, 1->2

Limits: time grows with ranks, groups and samples, so larger plans are refused, never checked in part. A plan does not
hold what its spec left open, so this cannot tell whether the choices are those that the user meant.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, product, starmap
from math import prod
from typing import NamedTuple

from ..base.axes import EXPERT_AXES, Axis
from ..layout.ir import Bridge, Group, GroupKind, ModuleLayout, ModulePlan, RankView, Strategy
from ..plan import Plan
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY
from .messages import expected_strategy, message_facts

MAX_RANKS = 4096
MAX_SAMPLES = 2**20
MAX_DISAGREEMENTS = 8
_MAX_SHOWN = 160

Coords = dict[Axis, int]
Table = dict[int, Coords]  # rank -> coords on all axes of both views, ranks ascending
Ranks = tuple[int, ...]

# DESIGN, semantics 3, in creation order: the axes that vary in a group of each kind. The other coords are equal.
_VARIES: tuple[tuple[GroupKind, frozenset[Axis]], ...] = (
    (GroupKind.TP, frozenset({Axis.TP})),
    (GroupKind.CP, frozenset({Axis.CP})),
    (GroupKind.PP, frozenset({Axis.PP})),
    (GroupKind.DP, frozenset({Axis.DP})),
    (GroupKind.DP_CP, frozenset({Axis.DP, Axis.CP})),
    (GroupKind.TP_CP, frozenset({Axis.TP, Axis.CP})),
    (GroupKind.TP_DP_CP, frozenset({Axis.TP, Axis.DP, Axis.CP})),
    (GroupKind.MP, frozenset({Axis.TP, Axis.PP})),
    (GroupKind.INTRA_DIST_OPT, frozenset({Axis.TP, Axis.CP, Axis.DP, Axis.PP})),
    (GroupKind.EP, frozenset({Axis.EP})),
    (GroupKind.EXPT_TP, frozenset({Axis.EXPT_TP})),
    (GroupKind.EXPT_DP, frozenset({Axis.EXPT_DP})),
    (GroupKind.TP_EP, frozenset({Axis.EXPT_TP, Axis.EP})),
    (GroupKind.TP_EP_PP, frozenset({Axis.EXPT_TP, Axis.EP, Axis.PP})),
)
_DENSE_VIEW = frozenset({Axis.TP, Axis.CP, Axis.DP, Axis.PP})
_EXPERT_VIEW = frozenset(EXPERT_AXES)
_EXPERT_KINDS = (GroupKind.EP, GroupKind.EXPT_TP, GroupKind.EXPT_DP, GroupKind.TP_EP, GroupKind.TP_EP_PP)


class VerificationError(AssertionError):
    """A plan answers something that its own sizes contradict.

    Attributes:
        disagreements: the first few disagreements, each with its place, what was expected and what the plan answered.
    """

    def __init__(self, disagreements: Iterable[str]) -> None:
        self.disagreements = tuple(disagreements)
        super().__init__(self.disagreements)

    def __str__(self) -> str:
        return "the plan disagrees with its own sizes:\n" + "\n".join(self.disagreements)


class Fact(NamedTuple):
    """One comparison: its place, what brute force expects, and what the plan answers."""

    where: str
    expected: object
    got: object


class Seated(NamedTuple):
    """A group as brute force expects it: the `number`-th of its kind, at `creation_index` of the creation order."""

    owner: str
    kind: GroupKind
    number: int
    creation_index: int
    ranks: Ranks


class ExpectedTransfer(NamedTuple):
    """A transfer as brute force expects it; the fields are those of `Transfer`."""

    src_lane: int
    dst_lane: int
    src_rank: int
    dst_rank: int
    src_start: int
    dst_start: int
    num_samples: int


class ExpectedSide(NamedTuple):
    """One end of an edge.

    Attributes:
        table: the coords of the module's ranks.
        lanes: for each lane, the ranks of the boundary stage.
        leaders: for each lane, its leader.
        dealt: for each sample of the microbatch, its lane.
    """

    table: Table
    lanes: dict[int, Ranks]
    leaders: dict[int, int]
    dealt: list[int]


class ExpectedEdge(NamedTuple):
    """An edge as brute force expects it."""

    src: str
    dst: str
    source: ExpectedSide
    destination: ExpectedSide
    transfers: list[ExpectedTransfer]

    @property
    def name(self) -> str:
        return f"{self.src}->{self.dst}"

    @property
    def shares_ranks(self) -> bool:
        return not self.source.table.keys().isdisjoint(self.destination.table)


def verify(plan: Plan, *, max_ranks: int = MAX_RANKS) -> int:
    """Check everything that `plan` answers and return the number of facts checked.

    Args:
        plan: the plan.
        max_ranks: the largest world to check; the time grows with it.

    Raises:
        VerificationError: the plan is wrong; it carries the first few disagreements.
        ValueError: the plan is too large to be checked whole.
    """
    _refuse_large(plan, max_ranks)
    num_facts = 0
    found: list[str] = []
    facts = _all_facts(plan)
    while len(found) < MAX_DISAGREEMENTS:
        try:
            fact = next(facts, None)
        except Exception as error:  # whatever a plan raises when it is asked is a disagreement
            found.append(f"after {num_facts} facts: expected an answer, the plan raised {error!r}")
            raise VerificationError(found) from error
        if fact is None:
            break
        num_facts += 1
        if fact.expected != fact.got:
            found.append(f"{fact.where}: expected {_show(fact.expected)}, got {_show(fact.got)}")
    if found:
        raise VerificationError(found)
    return num_facts


def _refuse_large(plan: Plan, max_ranks: int) -> None:
    num_ranks = max(module.grid.rank_offset + prod(module.grid.sizes) for module in plan.modules)
    if num_ranks > max_ranks:
        raise ValueError(f"verify seats at most max_ranks = {max_ranks} ranks; this plan has {num_ranks}")
    micro_size = plan.batch_sizes.micro_size
    if micro_size > MAX_SAMPLES:
        raise ValueError(f"verify deals at most {MAX_SAMPLES} samples; this plan's micro_size is {micro_size}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."


def _all_facts(plan: Plan) -> Iterator[Fact]:
    """Every fact. Sizes and the DAG come first, because all that follows reads them."""
    yield from _size_facts(plan)
    yield from _dag_facts(plan)
    tables = {module.name: _table(module) for module in plan.modules}
    yield from _world_facts(plan, tables)
    yield from _batch_facts(plan, tables)
    edges = [_edge(plan, src, dst, tables) for src, dst in plan.edges]
    for edge, bridge in zip(edges, plan.bridges, strict=True):
        yield from _bridge_facts(plan, bridge, edge)
        if edge.shares_ranks:
            yield from _gather_facts(plan, edge)
    groups = _seat_groups(plan, tables, edges)
    yield from _group_facts(plan, edges, groups)
    yield from _creation_facts(plan, groups)
    yield from _view_facts(plan, tables, edges, groups)


# ---- seating ranks


def _axis_size(module: ModulePlan, axis: Axis) -> int:
    return dict(zip(module.grid.order, module.grid.sizes, strict=True))[axis]


def _table(module: ModulePlan) -> Table:
    """The coords of every rank: walk the box of axes, the first axis fastest, and count the ranks."""
    grid = module.grid
    axes = tuple(reversed(grid.order))  # product() turns its last factor fastest
    walk = product(*(range(size) for size in reversed(grid.sizes)))
    table = {rank: dict(zip(axes, at, strict=True)) for rank, at in enumerate(walk, grid.rank_offset)}
    others = [axis for axis in axes if axis is not Axis.PP]
    for members in _buckets(table, {Axis.PP}):
        stage = sorted(members, key=lambda rank: [table[rank][axis] for axis in others])
        num_expt_dp = len(stage) // (grid.expt_tp * grid.ep)
        # DESIGN, semantics 2: flattened in the module's order, refactored as expt_tp (fastest), ep, expt_dp.
        seats = product(range(num_expt_dp), range(grid.ep), range(grid.expt_tp))
        for rank, (expt_dp, ep, expt_tp) in zip(stage, seats, strict=True):
            table[rank] |= {Axis.EXPT_DP: expt_dp, Axis.EP: ep, Axis.EXPT_TP: expt_tp}
    return table


def _buckets(table: Table, fixed: Iterable[Axis]) -> list[Ranks]:
    """Ranks with equal coords on `fixed`, ascending, the bucket of the lowest rank first."""
    keys = sorted(fixed)
    found: dict[Ranks, list[int]] = {}
    for rank in sorted(table):
        coords = table[rank]
        found.setdefault(tuple([coords[axis] for axis in keys]), []).append(rank)
    return sorted(map(tuple, found.values()))


# ---- sizes, DAG, world


def _size_facts(plan: Plan) -> Iterator[Fact]:
    """Grids have possible sizes: otherwise the rest of this file would compare nonsense with nonsense."""
    names = [module.name for module in plan.modules]
    yield Fact("modules: each name once", len(set(names)), len(names))
    yield Fact("modules: one is named language", 1, names.count(MIMO_LANGUAGE_MODULE_KEY))
    for module in plan.modules:
        grid, where = module.grid, f"modules.{module.name}"
        yield Fact(f"{where}: the axes of the order", sorted(_DENSE_VIEW), sorted(grid.order))
        yield Fact(f"{where}: one size for each axis", len(grid.order), len(grid.sizes))
        sizes = (*grid.sizes, grid.expt_tp, grid.ep, grid.rank_offset + 1)
        yield Fact(f"{where}: sizes below 1", [], [size for size in sizes if size < 1])
        if module.name != MIMO_LANGUAGE_MODULE_KEY:
            yield Fact(f"{where}: (expt_tp, ep) outside language", (1, 1), (grid.expt_tp, grid.ep))
        if module.stages is not None:
            yield Fact(f"{where}: entries of `stages`", _axis_size(module, Axis.PP), len(module.stages))


def _dag_facts(plan: Plan) -> Iterator[Fact]:
    """Each edge joins two known modules once, there is no cycle, and every module is before or after language."""
    place = {module.name: i for i, module in enumerate(plan.modules)}
    unknown = [name for edge in plan.edges for name in edge if name not in place]
    yield Fact("edges: names without a module", [], unknown)
    yield Fact("edges: each one once", len(set(plan.edges)), len(plan.edges))
    in_order = sorted(plan.edges, key=lambda edge: (place[edge[0]], place[edge[1]]))
    yield Fact("edges: in plan order of source, then destination", in_order, list(plan.edges))
    yield Fact("edges: modules on a cycle", [], _cyclic(plan))
    before = _reachable(MIMO_LANGUAGE_MODULE_KEY, [(dst, src) for src, dst in plan.edges])
    after = _reachable(MIMO_LANGUAGE_MODULE_KEY, plan.edges)
    apart = [name for name in place if name not in before | after | {MIMO_LANGUAGE_MODULE_KEY}]
    yield Fact("edges: modules neither before nor after language", [], apart)
    yield Fact("bridges: one per edge, in order", list(plan.edges), [(b.src, b.dst) for b in plan.bridges])


def _reachable(start: str, edges: Iterable[tuple[str, str]]) -> set[str]:
    """The modules at the end of a path of at least one edge."""
    edges = tuple(edges)
    found = {dst for src, dst in edges if src == start}
    for _ in edges:  # as many rounds as the longest path can have edges
        found |= {dst for src, dst in edges if src in found}
    return found


def _cyclic(plan: Plan) -> list[str]:
    return [module.name for module in plan.modules if module.name in _reachable(module.name, plan.edges)]


def _world_facts(plan: Plan, tables: Mapping[str, Table]) -> Iterator[Fact]:
    """DESIGN, semantics 8 and 9: no rank is idle, and the layout follows from who shares ranks."""
    held = {rank for table in tables.values() for rank in table}
    yield Fact("world_size", max(held) + 1, plan.world_size)
    yield Fact("coverage: idle ranks", [], [rank for rank in range(max(held) + 1) if rank not in held])
    yield Fact("layout", _layout(tables), plan.layout)
    for module in plan.modules:
        where = f"modules.{module.name}"
        yield Fact(f"{where}: ranks", sorted(tables[module.name]), list(module.ranks))
        yield Fact(f"{where}: num_stages", _axis_size(module, Axis.PP), module.num_stages)
        yield Fact(f"module({module.name!r})", module, plan.module(module.name))
    for rank in (-1, max(held) + 1):
        yield Fact(f"role({rank}), outside the world", ValueError, _raised(partial(plan.role, rank)))
        yield Fact(f"view({rank}), outside the world", ValueError, _raised(partial(plan.view, rank)))


def _raised(ask: Callable[[], object]) -> type[Exception] | None:
    try:
        ask()
    except Exception as error:
        return type(error)
    return None


def _layout(tables: Mapping[str, Table]) -> ModuleLayout:
    language = set(tables[MIMO_LANGUAGE_MODULE_KEY])
    others = [set(table) for name, table in tables.items() if name != MIMO_LANGUAGE_MODULE_KEY]
    if all(ranks == language for ranks in others):
        return ModuleLayout.COLOCATED
    if all(not ranks & language for ranks in others):
        return ModuleLayout.NON_COLOCATED
    return ModuleLayout.MIXED


# ---- samples


def _deal(plan: Plan, table: Table) -> list[int]:
    """The lane of each sample of the microbatch: lanes hold contiguous blocks, in dp order."""
    num_lanes = len({coords[Axis.DP] for coords in table.values()})
    return [lane for lane in range(num_lanes) for _ in range(plan.batch_sizes.micro_size // num_lanes)]


def _blocks(dealt: Sequence[int]) -> dict[int, slice]:
    """Each lane's samples, as a slice of the microbatch."""
    found: dict[int, slice] = {}
    for sample, lane in enumerate(dealt):
        found[lane] = slice(found[lane].start if lane in found else sample, sample + 1)
    return found


def _batch_facts(plan: Plan, tables: Mapping[str, Table]) -> Iterator[Fact]:
    """DESIGN, semantics 5: whole microbatches, whole lanes, and every sample in exactly one lane."""
    sizes, batch = plan.batch_sizes, plan.batch
    num_samples = batch.num_microbatches * sizes.micro_size
    yield Fact("batch: num_microbatches * micro_size", sizes.global_size, num_samples)
    yield Fact("batch: modules of samples_per_lane", list(tables), list(batch.samples_per_lane))
    for name, table in tables.items():
        dealt = _deal(plan, table)
        yield Fact(f"batch: samples dealt to the lanes of {name}", sizes.micro_size, len(dealt))
        yield Fact(f"batch.samples_per_lane[{name!r}]", dealt.count(0), batch.samples_per_lane[name])
        blocks = _blocks(dealt)
        for rank, coords in table.items():
            yield Fact(f"batch.slice({name!r}, {rank})", blocks[coords[Axis.DP]], batch.slice(name, rank))
        beyond = max(table) + 1
        raised = _raised(partial(batch.slice, name, beyond))
        yield Fact(f"batch.slice({name!r}, {beyond}), beyond its ranks", ValueError, raised)


# ---- bridges


def _edge(plan: Plan, src: str, dst: str, tables: Mapping[str, Table]) -> ExpectedEdge:
    """DESIGN, semantics 4: the last rank over tp and cp of a source's last stage sends, the first rank of the
    destination's first stage receives."""
    source, destination = _side(plan, tables[src], max), _side(plan, tables[dst], min)
    return ExpectedEdge(src, dst, source, destination, list(_transfers(source, destination)))


def _side(plan: Plan, table: Table, pick: Callable[[Iterable[int]], int]) -> ExpectedSide:
    """`pick` is max at a source (last stage, last tp and cp), min at a destination."""
    stage, tp, cp = (pick(coords[axis] for coords in table.values()) for axis in (Axis.PP, Axis.TP, Axis.CP))
    lanes: dict[int, Ranks] = {}
    leaders: dict[int, int] = {}
    for rank in sorted(table):
        coords = table[rank]
        if coords[Axis.PP] == stage:
            lane = coords[Axis.DP]
            lanes[lane] = (*lanes.get(lane, ()), rank)
            if (coords[Axis.TP], coords[Axis.CP]) == (tp, cp):
                leaders[lane] = rank
    return ExpectedSide(table, {lane: lanes[lane] for lane in sorted(lanes)}, leaders, _deal(plan, table))


def _transfers(source: ExpectedSide, destination: ExpectedSide) -> Iterator[ExpectedTransfer]:
    """Follow every sample from lane to lane; a run of samples with the same two lanes forms a transfer."""
    src_blocks, dst_blocks = _blocks(source.dealt), _blocks(destination.dealt)
    ways = enumerate(zip(source.dealt, destination.dealt, strict=True))
    for (src, dst), run in groupby(ways, key=lambda way: way[1]):
        samples = [sample for sample, _ in run]
        starts = samples[0] - src_blocks[src].start, samples[0] - dst_blocks[dst].start
        yield ExpectedTransfer(src, dst, source.leaders[src], destination.leaders[dst], *starts, len(samples))


def _bridge_facts(plan: Plan, bridge: Bridge, edge: ExpectedEdge) -> Iterator[Fact]:
    where = f"bridge {edge.name}"
    yield Fact(f"{where}: strategy", expected_strategy(plan, edge), bridge.strategy)
    yield Fact(f"bridge({edge.src!r}, {edge.dst!r})", bridge, plan.bridge(edge.src, edge.dst))
    yield Fact(f"{where}: src_broadcast", list(edge.source.lanes.values()), list(bridge.src_broadcast))
    yield Fact(f"{where}: dst_broadcast", list(edge.destination.lanes.values()), list(bridge.dst_broadcast))
    got = [_as_expected(transfer) for transfer in bridge.transfers]
    yield Fact(f"{where}: number of transfers", len(edge.transfers), len(bridge.transfers))
    for i, (transfer, got_transfer) in enumerate(zip(edge.transfers, got, strict=False)):
        yield Fact(f"{where}: transfers[{i}]", transfer, got_transfer)
        yield Fact(f"{where}: transfers[{i}], by index", transfer, _as_expected(bridge.transfers[i]))
    yield from _sample_facts(where, edge, got)
    yield from starmap(Fact, message_facts(plan, edge, bridge.strategy))


def _as_expected(transfer: object) -> ExpectedTransfer:
    return ExpectedTransfer(*(getattr(transfer, name) for name in ExpectedTransfer._fields))


def _sample_facts(where: str, edge: ExpectedEdge, got: list[ExpectedTransfer]) -> Iterator[Fact]:
    """Every sample of every lane's block leaves exactly once and arrives exactly once, as the same sample.

    It follows the plan's own transfers, not those expected, and so does not lean on `_transfers`.
    """
    sent, received, moved = Counter[int](), Counter[int](), []
    src_blocks, dst_blocks = _blocks(edge.source.dealt), _blocks(edge.destination.dealt)
    for transfer in got:
        first_out = src_blocks[transfer.src_lane].start + transfer.src_start
        first_in = dst_blocks[transfer.dst_lane].start + transfer.dst_start
        sent.update(range(first_out, first_out + transfer.num_samples))
        received.update(range(first_in, first_in + transfer.num_samples))
        moved += [transfer] if first_out != first_in else []
    once = dict.fromkeys(range(len(edge.source.dealt)), 1)
    yield Fact(f"{where}: samples that leave, with how often", once, dict(sorted(sent.items())))
    yield Fact(f"{where}: samples that arrive, with how often", once, dict(sorted(received.items())))
    yield Fact(f"{where}: transfers that arrive as another sample", [], moved)


def _gather_facts(plan: Plan, edge: ExpectedEdge) -> Iterator[Fact]:
    """What gather groups must do, whatever their members: bring every lane its samples, and gradients back."""
    where = f"groups({edge.name!r}, 'bridge_gather')"
    groups = list(plan.groups(edge.name, GroupKind.BRIDGE_GATHER))
    ascending = [tuple(sorted(set(ranks))) for ranks in groups]
    yield Fact(f"{where}: ranks ascend within a group, each once", ascending, groups)
    yield Fact(f"{where}: ordered by lowest rank", sorted(groups, key=min), groups)
    sides = (edge.source, edge.destination)
    boundary = {rank for side in sides for ranks in side.lanes.values() for rank in ranks}
    strangers = sorted({rank for ranks in groups for rank in ranks} - boundary)
    yield Fact(f"{where}: ranks outside both boundary stages", [], strangers)
    reach: dict[int, set[int]] = {rank: {rank} for rank in boundary}
    for ranks in groups:
        for rank in boundary.intersection(ranks):
            reach[rank].update(ranks)
    missing = list(_missing(edge.source, edge.destination, reach))
    yield Fact(f"{where}: destination ranks that miss samples of their lane", [], missing)
    missing = list(_missing(edge.destination, edge.source, reach))
    yield Fact(f"{where}: source ranks that miss gradients of their lane", [], missing)


def _missing(givers: ExpectedSide, takers: ExpectedSide, reach: Mapping[int, set[int]]) -> Iterator[tuple[int, str]]:
    """The ranks of `takers` that cannot find their lane's samples among the ranks that they reach.

    Ranks of one lane hold the same samples over tp, and different parts of the sequence over cp: each part
    of a sample is to be found.
    """
    holds = {rank: (lane, givers.table[rank][Axis.CP]) for lane, ranks in givers.lanes.items() for rank in ranks}
    parts = {part for _, part in holds.values()}
    wanted: dict[int, set[int]] = defaultdict(set)
    for giver, taker in zip(givers.dealt, takers.dealt, strict=True):
        wanted[taker].add(giver)
    for lane, ranks in takers.lanes.items():
        needed = set(product(wanted[lane], parts))
        for rank in ranks:
            for giver, part in sorted(needed - {holds[other] for other in reach[rank] if other in holds}):
                yield rank, f"lane {giver}, cp {part}"


# ---- groups and their order


def _module_groups(module: ModulePlan, table: Table) -> Iterator[tuple[GroupKind, list[Ranks]]]:
    """The groups of one module by kind: buckets of ranks that agree on all axes but those that vary in the kind."""
    for kind, varies in _VARIES:
        view = _EXPERT_VIEW if kind in _EXPERT_KINDS else _DENSE_VIEW
        yield kind, _buckets(table, view - varies)
    if module.name == MIMO_LANGUAGE_MODULE_KEY:
        # DESIGN, semantics 3: one pair for every pp group; its ranks ascend with the stage.
        pipelines = _buckets(table, _DENSE_VIEW - {Axis.PP})
        yield GroupKind.EMBD, [tuple(sorted({pipeline[0], pipeline[-1]})) for pipeline in pipelines]
        yield GroupKind.POS_EMBD, [pipeline[:1] for pipeline in pipelines]


def _bridge_groups(plan: Plan, edge: ExpectedEdge) -> Iterator[tuple[GroupKind, list[Ranks]]]:
    """The groups of one edge by kind.

    DESIGN leaves the members of gather groups open: they are taken from the plan, and `_gather_facts` checks what they
    must do.
    """
    if edge.shares_ranks:
        yield GroupKind.BRIDGE_GATHER, list(plan.groups(edge.name, GroupKind.BRIDGE_GATHER))
    else:
        yield GroupKind.BRIDGE_SRC, list(edge.source.lanes.values())
        yield GroupKind.BRIDGE_DST, list(edge.destination.lanes.values())
        sides = (edge.source, edge.destination)
        leaders = [rank for side in sides for rank in side.leaders.values()]
        every = [rank for side in sides for ranks in side.lanes.values() for rank in ranks]
        sliced = expected_strategy(plan, edge) is Strategy.SLICES
        yield GroupKind.BRIDGE_P2P, [tuple(sorted(every if sliced else leaders))]


def _seat_groups(plan: Plan, tables: Mapping[str, Table], edges: Iterable[ExpectedEdge]) -> list[Seated]:
    """Every group of the plan in creation order: by module, then by edge; within each by kind, then as enumerated."""
    owned = [(module.name, list(_module_groups(module, tables[module.name]))) for module in plan.modules]
    owned += [(edge.name, list(_bridge_groups(plan, edge))) for edge in edges]
    found: list[Seated] = []
    for owner, kinds in owned:
        for kind, groups in kinds:
            base = len(found)
            found += [Seated(owner, kind, i, base + i, ranks) for i, ranks in enumerate(groups)]
    return found


def _group_facts(plan: Plan, edges: Iterable[ExpectedEdge], seated: Iterable[Seated]) -> Iterator[Fact]:
    """`groups` for every owner and every kind; a KeyError if the owner has no groups of that kind."""
    # There may be no gather groups at all, if no rank needs anything from another.
    expected: dict[tuple[str, GroupKind], list[Ranks]] = {
        (edge.name, GroupKind.BRIDGE_GATHER): [] for edge in edges if edge.shares_ranks
    }
    for group in seated:
        expected.setdefault((group.owner, group.kind), []).append(group.ranks)
    owners = [module.name for module in plan.modules] + [edge.name for edge in edges]
    for owner, kind in product(owners, GroupKind):
        where = f"groups({owner!r}, '{kind}')"
        if (owner, kind) in expected:
            got = plan.groups(owner, kind)
            yield Fact(where, expected[owner, kind], list(got))
            yield Fact(f"{where}: how many", len(expected[owner, kind]), len(got))
            yield Fact(f"{where}: by index", expected[owner, kind], [got[i] for i in range(len(got))])
        else:
            yield Fact(f"{where}, which it has not", KeyError, _raised(partial(plan.groups, owner, kind)))


def _creation_facts(plan: Plan, seated: list[Seated]) -> Iterator[Fact]:
    """The one global order, without gaps."""
    created = list(plan.creation_order())
    yield Fact("creation_order: number of groups", len(seated), len(created))
    yield Fact("num_groups", len(seated), plan.num_groups)
    for expected, group in zip(seated, created, strict=False):
        yield Fact(f"creation_order, index {expected.creation_index}", expected, _as_seated(group))


def _as_seated(group: Group) -> Seated:
    return Seated(group.owner, group.kind, group.index, group.creation_index, group.ranks)


# ---- views


def _nodes_of_the_schedule(plan: Plan, tables: Mapping[str, Table]) -> dict[str, frozenset[str]]:
    """For each module, the modules that run in one pass with it, itself included.

    Two sets merge if both share ranks with language, or if an edge joins two of their modules on shared ranks.
    """
    inside = [name for name in tables if set(tables[name]) & set(tables[MIMO_LANGUAGE_MODULE_KEY])]
    pairs = [(MIMO_LANGUAGE_MODULE_KEY, name) for name in inside]
    pairs += [(src, dst) for src, dst in plan.edges if set(tables[src]) & set(tables[dst])]
    nodes = {name: frozenset({name}) for name in tables}
    for one, other in pairs:
        merged = nodes[one] | nodes[other]
        nodes |= dict.fromkeys(merged, merged)
    return nodes


def _longest_before(
    plan: Plan, nodes: Mapping[str, frozenset[str]], hops: Iterable[tuple[str, str]]
) -> dict[str, int] | None:
    """For each module, the stages of the longest path of nodes before its own; None if the nodes form a cycle."""
    num_stages = {node: max(_axis_size(plan.module(name), Axis.PP) for name in node) for node in nodes.values()}
    known: dict[frozenset[str], int] = {}

    def before(node: frozenset[str], path: tuple[frozenset[str], ...]) -> int:
        if node in path:
            raise RecursionError
        if node not in known:
            sources = {nodes[src] for src, dst in hops if dst in node}
            known[node] = max((before(src, (*path, node)) + num_stages[src] for src in sources), default=0)
        return known[node]

    try:
        return {name: before(node, ()) for name, node in nodes.items()}
    except RecursionError:
        return None


def _pipeline(plan: Plan, tables: Mapping[str, Table]) -> tuple[dict[str, int], int]:
    """DESIGN, semantics 6: position of each module's first stage in the pipeline that runs, and its number of stages.

    No schedule runs a plan whose nodes wait for one another; its modules are then counted one by one.
    """
    hops = [(src, dst) for src, dst in plan.edges if not set(tables[src]) & set(tables[dst])]
    before = _longest_before(plan, _nodes_of_the_schedule(plan, tables), hops)
    if before is None:
        before = _longest_before(plan, {name: frozenset({name}) for name in tables}, plan.edges) or {}
    return before, max(before[module.name] + _axis_size(module, Axis.PP) for module in plan.modules)


def _view_facts(
    plan: Plan, tables: Mapping[str, Table], edges: Iterable[ExpectedEdge], seated: Iterable[Seated]
) -> Iterator[Fact]:
    """Every answer of every rank's role and view."""
    before, total = _pipeline(plan, tables)
    yield Fact("pipeline.num_stages", total, plan.pipeline.num_stages)
    groups = _groups_by_rank(plan, seated)
    led, nodes = _led_by_rank(edges), _nodes(plan)
    blocks = {name: _blocks(_deal(plan, table)) for name, table in tables.items()}
    after = _reachable(MIMO_LANGUAGE_MODULE_KEY, plan.edges)
    for rank in range(plan.world_size):
        view, where = plan.view(rank), f"view({rank})"
        held = {name: table[rank] for name, table in tables.items() if rank in table}
        slices = {name: blocks[name][coords[Axis.DP]] for name, coords in held.items()}
        yield Fact(f"{where}.rank", rank, view.rank)
        yield Fact(f"{where}.coords", held, {name: dict(coords) for name, coords in view.coords.items()})
        yield Fact(f"{where}: modules in plan order", list(held), list(view.coords))
        yield Fact(f"{where}.groups", groups[rank], list(view.groups))
        yield Fact(f"{where}.transfers", led[rank], _as_led(view))
        yield Fact(f"{where}: (node, local_rank)", nodes[rank], (view.node, view.local_rank))
        yield Fact(f"{where}.batch_slices", slices, dict(view.batch_slices))
        yield from _stage_facts(plan, view, held, before, total)
        yield from _data_facts(plan, view, held, after)
        yield from _lookup_facts(view)


def _groups_by_rank(plan: Plan, seated: Iterable[Seated]) -> dict[int, list[Group]]:
    """For each rank, the groups that hold it, in creation order.

    Brute force says who is in them; that the creation order's groups are equal to those has just been checked.
    """
    found: dict[int, list[Group]] = defaultdict(list)
    for expected, group in zip(seated, plan.creation_order(), strict=True):
        for rank in expected.ranks:
            found[rank].append(group)
    return found


Led = tuple[str, str, list[ExpectedTransfer], list[ExpectedTransfer]]


def _led_by_rank(edges: Iterable[ExpectedEdge]) -> dict[int, list[Led]]:
    """For each rank, the edges on which it leads a lane, in order: source, destination, sends, receives."""
    found: dict[int, list[Led]] = defaultdict(list)
    for edge in edges:
        sends: dict[int, list[ExpectedTransfer]] = defaultdict(list)
        receives: dict[int, list[ExpectedTransfer]] = defaultdict(list)
        for transfer in edge.transfers:
            sends[transfer.src_rank].append(transfer)
            receives[transfer.dst_rank].append(transfer)
        for rank in {*sends, *receives}:
            found[rank].append((edge.src, edge.dst, sends[rank], receives[rank]))
    return found


def _as_led(view: RankView) -> list[Led]:
    return [
        (edge.src, edge.dst, [*map(_as_expected, edge.sends)], [*map(_as_expected, edge.receives)])
        for edge in view.transfers
    ]


def _nodes(plan: Plan) -> list[tuple[int | None, int | None]]:
    """(node, local rank) of every rank. Nodes are filled one after the other."""
    per_node = plan.cluster.gpus_per_node if plan.cluster else None
    if per_node is None:
        return [(None, None)] * plan.world_size
    # Stop once there are enough places: a node may be larger than the world.
    seats = product(range(plan.world_size), range(min(per_node, plan.world_size)))
    return [seat for seat, _ in zip(seats, range(plan.world_size), strict=False)]


def _ends(plan: Plan, name: str, coords: Coords) -> tuple[bool, bool]:
    """Whether coords are in the module's first stage, and in its last."""
    return coords[Axis.PP] == 0, coords[Axis.PP] == _axis_size(plan.module(name), Axis.PP) - 1


def _stage_facts(
    plan: Plan, view: RankView, held: Mapping[str, Coords], before: Mapping[str, int], total: int
) -> Iterator[Fact]:
    """DESIGN, semantics 6: the stage of the module, the ends of the model, the position in the pipeline that runs."""
    where = f"view({view.rank})"
    role = plan.role(view.rank)
    yield Fact(f"role({view.rank}): the view's", role, view.role)
    yield Fact(f"role({view.rank}).mode", plan.layout, role.mode)
    ends = {name: _ends(plan, name, coords) for name, coords in held.items()}
    infos = {name: (info.is_first_stage, info.is_last_stage) for name, info in role.modules.items()}
    yield Fact(f"role({view.rank}).modules", list(ends.items()), list(infos.items()))
    for name, coords in held.items():
        first, last = ends[name]
        is_source = all(dst != name for _, dst in plan.edges)
        is_sink = all(src != name for src, _ in plan.edges)
        num_stages = _axis_size(plan.module(name), Axis.PP)
        stage = view.stages[name]
        got = (stage.stage, stage.num_stages, stage.is_model_first, stage.is_model_last)
        expected = (coords[Axis.PP], num_stages, first and is_source, last and is_sink)
        yield Fact(f"{where}.stages[{name!r}]", expected, got)
    leading = MIMO_LANGUAGE_MODULE_KEY if MIMO_LANGUAGE_MODULE_KEY in held else next(iter(held))
    position = before[leading] + held[leading][Axis.PP]
    yield Fact(f"{where}: (position, total_stages)", (position, total), (view.position, view.total_stages))
    yield Fact(f"{where}.num_warmup_microbatches", total - position - 1, view.num_warmup_microbatches)


def _data_facts(plan: Plan, view: RankView, held: Mapping[str, Coords], after: set[str]) -> Iterator[Fact]:
    """DESIGN, semantics 7. A module after language reads its own entry of the batch, the targets, on its last stage."""
    for name, coords in held.items():
        first, last = _ends(plan, name, coords)
        if name == MIMO_LANGUAGE_MODULE_KEY:
            needs = ["position_ids"] + ["input_ids"] * first + ["labels", "loss_mask"] * last
        else:
            own = last if name in after else first
            needs = ["modality_inputs"] * own + ["input_ids"] * (first or last)
        yield Fact(f"view({view.rank}).data[{name!r}]", sorted(needs), sorted(view.data[name]))


def _lookup_facts(view: RankView) -> Iterator[Fact]:
    """What a view derives from its own groups."""
    where = f"view({view.rank})"
    lanes = [group for group in view.groups if group.kind in (GroupKind.BRIDGE_SRC, GroupKind.BRIDGE_DST)]
    yield Fact(f"{where}.broadcast_groups", lanes, list(view.broadcast_groups))
    firsts: dict[tuple[str, GroupKind], Group] = {}
    for group in view.groups:
        firsts.setdefault((group.owner, group.kind), group)
    found = [view.group(owner, kind) for owner, kind in firsts]
    yield Fact(f"{where}.group(owner, kind)", list(firsts.values()), found)
