"""Which ranks compute what in which order: the non-interleaved 1F1B schedule of megatron-core over a plan's stages.

The order is that of megatron-core 0.19.2, `forward_backward_pipelining_without_interleaving`: a unit runs
w = min(stages - position - 1, m) forward passes (warm-up), where m is the number of microbatches, then one forward and
one backward pass in turn, then the w remaining backward passes (cool-down). Four stages in a row with two microbatches:

    stage 0   F0 F1          B0 B1      w = 2 (of 3)
    stage 1      F0 F1    B0    B1      w = 2
    stage 2         F0 F1 B0 B1         w = 1: F0, then F1 B0, then B1
    stage 3            F0 B0 F1 B1      w = 0

**Units.** What is simulated is a *unit*: all ranks that hold the same stages, over all tp, cp and dp. That loses
nothing: the order of operations depends on the stage alone, durations are given per stage and per edge, and every
lane of a stage waits for at least one lane of each neighbour, whatever the two dp sizes are. So the lanes of a stage
start and end every operation at the same instants (by induction over the operations; a test compares with a replay
of every lane over the plan's transfers). Lanes that differ because of a slow node or longer samples are not modelled.
If modules share only some of their ranks, a stage has several units, and the lanes of a unit may wait for different
units. Single passes can then be earlier than simulated; in none of the layouts that the tests drew was a whole step
earlier.

**Ranks of several modules** run all of them in one forward and one backward pass, in the order of the DAG. They receive
from other ranks before the pass and send after it. What modules that share ranks hand to each other crosses inside the
pass, just before the module that takes it. The position of each stage comes from `Plan.pipeline`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import product

from ...base.frozen import frozen
from ...layout.dag import topological_order
from ...layout.ir import Bridge, GroupKind, Groups
from ...plan import Plan


@frozen(order=True)
class Stage:
    """One pipeline stage of one module.

    Attributes:
        module: the name of the module.
        index: the stage's index in it, from 0.
    """

    module: str
    index: int

    def __str__(self) -> str:
        return f"{self.module} stage {self.index}"


@frozen(kw_only=True)
class Unit:
    """All ranks that hold the same stages.

    Attributes:
        ranks: the ranks, ascending.
        stages: the stages that each of them holds, in the order of the DAG.
        position: the stages' position in the pipeline that runs, from 0.
        num_warmup: forward passes before the first backward pass, if there are enough microbatches.
    """

    ranks: Sequence[int]
    stages: tuple[Stage, ...]
    position: int
    num_warmup: int

    def __str__(self) -> str:
        return " + ".join(map(str, self.stages))


class Call(IntEnum):
    """What a unit does next: a pass, or one of the communication calls of the schedule.

    UPSTREAM calls exchange tensors with the stages before, DOWNSTREAM calls with those after. A call may send in one
    direction and receive in the other at once: `send_forward_recv_backward` is DOWNSTREAM with both microbatches given.
    """

    FORWARD = 0
    BACKWARD = 1
    UPSTREAM = 2  # receives activations, sends gradients
    DOWNSTREAM = 3  # sends activations, receives gradients


NONE = -1
Step = tuple[Call, int, int]
"""(call, microbatch that goes forward, microbatch that goes backward); NONE for neither."""


def program(num_warmup: int, num_microbatches: int) -> Iterator[Step]:
    """The calls of a unit, in megatron-core's order. `num_warmup` may exceed the number of microbatches."""
    warmup = min(num_warmup, num_microbatches)
    for i in range(warmup):
        yield Call.UPSTREAM, i, NONE
        yield Call.FORWARD, i, NONE
        yield Call.DOWNSTREAM, i, NONE
    if warmup < num_microbatches:
        yield Call.UPSTREAM, warmup, NONE
    for i in range(num_microbatches - warmup):
        yield Call.FORWARD, i + warmup, NONE
        yield Call.DOWNSTREAM, i + warmup, i
        yield Call.BACKWARD, NONE, i
        last = i + warmup + 1 == num_microbatches
        yield Call.UPSTREAM, NONE if last else i + warmup + 1, i
    for i in range(num_microbatches - warmup, num_microbatches):
        yield Call.DOWNSTREAM, NONE, i
        yield Call.BACKWARD, NONE, i
        yield Call.UPSTREAM, NONE, i


def computations(num_warmup: int, num_microbatches: int) -> Iterator[tuple[Call, int]]:
    """The passes of a unit in order, without its communication: (FORWARD or BACKWARD, microbatch)."""
    for call, forward, backward in program(num_warmup, num_microbatches):
        if call is Call.FORWARD:
            yield call, forward
        elif call is Call.BACKWARD:
            yield call, backward


def in_flight(num_warmup: int, num_microbatches: int) -> int:
    """The most microbatches whose activations a unit holds at once: min(num_microbatches, num_warmup + 1)."""
    return min(num_microbatches, num_warmup + 1)


def num_passes(plan: Plan) -> int:
    """The number of passes that a simulation of the plan goes through: every stage, microbatch and direction."""
    return 2 * plan.batch.num_microbatches * sum(module.num_stages for module in plan.modules)


def position_of(plan: Plan, stages: Sequence[Stage]) -> int:
    """The position in the pipeline of ranks that hold these stages, which are given in plan order."""
    return plan.pipeline.position({stage.module: stage.index for stage in stages})


def warmup_at(plan: Plan, position: int) -> int:
    """The number of forward passes before the first backward pass, at a position in the pipeline."""
    return plan.pipeline.num_stages - position - 1


@frozen
class Hop:
    """Two stages that hand microbatches to each other: within a module, or across an edge.

    Attributes:
        units: indices of their two units; equal if the tensors stay on their ranks.
        src: the stage that hands on activations.
        dst: the stage that takes them, and hands back gradients.
        is_shared: whether the two modules share ranks, so that the tensors cross inside a pass.
    """

    units: tuple[int, int]
    src: Stage
    dst: Stage
    is_shared: bool = False

    @property
    def is_edge(self) -> bool:
        """Whether the two stages are of different modules."""
        return self.src.module != self.dst.module

    def __str__(self) -> str:
        return f"{self.src} -> {self.dst}"


@frozen
class Schedule:
    """The units of a plan and the hops between them. Its size depends on the number of stages alone.

    Attributes:
        modules: the names of the modules, in the order of the DAG.
        units: the units, by the first module that they hold, in that order, then by its stage.
        hops: the hops within modules, then those across edges.
        num_microbatches: microbatches of a step.
        world_size: number of ranks.
    """

    modules: tuple[str, ...]
    units: tuple[Unit, ...]
    hops: tuple[Hop, ...]
    num_microbatches: int
    world_size: int


def schedule_of(plan: Plan) -> Schedule:
    """The schedule of a plan."""
    modules = tuple(topological_order([module.name for module in plan.modules], plan.edges))
    units = _units(plan, modules)
    holders: dict[Stage, list[int]] = {}
    for index, unit in enumerate(units):
        for stage in unit.stages:
            holders.setdefault(stage, []).append(index)
    shared = set(plan.pipeline.shared)
    hops = tuple(
        Hop(pair, src, dst, is_shared=(src.module, dst.module) in shared)
        for src, dst in _neighbours(plan)
        for pair in _unit_pairs(plan, units, (src, holders[src]), (dst, holders[dst]))
    )
    return Schedule(modules, units, hops, plan.batch.num_microbatches, plan.world_size)


def _units(plan: Plan, modules: Sequence[str]) -> tuple[Unit, ...]:
    def place(stage: Stage) -> tuple[int, int]:
        return modules.index(stage.module), stage.index

    found = []
    for stages, ranks in _ranks_by_stages(plan).items():
        position = position_of(plan, stages)
        ordered = tuple(sorted(stages, key=place))
        found.append(Unit(ranks=ranks, stages=ordered, position=position, num_warmup=warmup_at(plan, position)))
    return tuple(sorted(found, key=lambda unit: place(unit.stages[0])))


def _ranks_by_stages(plan: Plan) -> dict[tuple[Stage, ...], Sequence[int]]:
    """The ranks that hold each set of stages, the stages in plan order.

    Ranks are looked at one by one only if their module overlaps another.
    """
    found: dict[tuple[Stage, ...], Sequence[int]] = {}
    stages_of: dict[int, tuple[Stage, ...]] = {}
    for module in plan.modules:
        alone = not any(other is not module and module.grid.overlaps(other.grid) for other in plan.modules)
        for index, ranks in enumerate(plan.groups(module.name, GroupKind.TP_DP_CP)):  # all ranks of a stage
            stage = Stage(module.name, index)
            if alone:
                found[(stage,)] = ranks
                continue
            for rank in ranks:
                stages_of[rank] = (*stages_of.get(rank, ()), stage)
    shared: dict[tuple[Stage, ...], list[int]] = {}
    for rank in sorted(stages_of):
        shared.setdefault(stages_of[rank], []).append(rank)
    return found | {stages: tuple(ranks) for stages, ranks in shared.items()}


def _neighbours(plan: Plan) -> Iterator[tuple[Stage, Stage]]:
    """The pairs of stages that hand tensors to each other: along each module's pipeline, then across each edge."""
    for module in plan.modules:
        for index in range(1, module.num_stages):
            yield Stage(module.name, index - 1), Stage(module.name, index)
    for src, dst in plan.edges:
        yield Stage(src, plan.module(src).num_stages - 1), Stage(dst, 0)


def _lanes(bridge: Bridge) -> tuple[Groups, Groups]:
    return bridge.src_broadcast, bridge.dst_broadcast


def _unit_pairs(
    plan: Plan, units: Sequence[Unit], src: tuple[Stage, list[int]], dst: tuple[Stage, list[int]]
) -> list[tuple[int, int]]:
    """The pairs of units over which two neighbouring stages hand tensors to each other, ascending.

    Each stage comes with the indices of its units.
    """
    (one, senders), (other, receivers) = src, dst
    if len(senders) == len(receivers) == 1:
        return [(senders[0], receivers[0])]
    unit_of = {rank: index for index in {*senders, *receivers} for rank in units[index].ranks}
    if one.module == other.module:
        found = {(unit_of[g[one.index]], unit_of[g[other.index]]) for g in plan.groups(one.module, GroupKind.PP)}
    else:
        bridge = plan.bridge(one.module, other.module)
        out, into = ([{unit_of[rank] for rank in lane} for lane in side] for side in _lanes(bridge))
        found = {
            pair for transfer in bridge.transfers for pair in product(out[transfer.src_lane], into[transfer.dst_lane])
        }
    return sorted(found)
