"""A record of megatron-core's own order of operations, and an independent replay of it as a longest path.

`record` runs the real schedule function with the real MultiModulePipelineCommunicator as one rank of a plan. Only its
point-to-point and bridge communicators are replaced, by ones that write down whom they would talk to; the forward and
backward steps write down that they were called. No tensor is made.

`replay` makes one graph of the records of all ranks. An operation comes after the one before it on its rank, and a
message after both of its ends have come to it. The longest path to a node is the time at which it happens, and a cycle
is a deadlock. The replay knows nothing of the simulation's units and programs.
"""

from __future__ import annotations

from collections.abc import Callable
from graphlib import TopologicalSorter
from itertools import groupby
from random import Random
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from planner import Direction, Plan
from planner.cost.simulation.durations import Durations
from planner.cost.simulation.schedule import Stage
from planner.cost.simulation.simulate import Sends

from .megatron import Megatron

Wire = tuple[int, int, str, str, Direction]
"""(sender, receiver, source module, destination module, direction); equal modules for a pipeline's own stages."""


@attrs.frozen
class Pass:
    """A forward or backward step of a rank, through all of its modules."""

    direction: Direction


@attrs.frozen
class Exchange:
    """Messages that are posted together.

    Attributes:
        call: the number of the schedule's call that they belong to.
        is_edge: whether they cross an edge between modules, rather than pass from stage to stage.
        sends: the messages that the rank sends.
        receives: the messages that the rank receives.
    """

    call: int
    is_edge: bool
    sends: tuple[Wire, ...]
    receives: tuple[Wire, ...]


class Recorder:
    """Stands for every point-to-point and bridge communicator of one rank."""

    def __init__(self) -> None:
        self.found: list[Pass | Exchange] = []
        self.call = 0

    def step(self, direction: Direction, result: Any) -> Any:
        def stepped(*_args: object, **_kwargs: object) -> Any:
            self.found.append(Pass(direction))
            return result

        return stepped

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The method of the pipeline's communicator, with a new number for the exchanges of each call."""

        def called(*args: object, **kwargs: object) -> Any:
            self.call += 1
            return call(*args, **kwargs)

        return called

    def wires(self, rank: int, peers: list[int], src: str, dst: str, is_source: bool) -> _Wires:
        ends = [(rank, peer) if is_source else (peer, rank) for peer in peers]
        forward = tuple((one, other, src, dst, Direction.FORWARD) for one, other in ends)
        return _Wires(self, forward, tuple((b, a, src, dst, Direction.BACKWARD) for a, b, *_ in forward))

    def add(self, is_edge: bool, sends: tuple[Wire, ...] = (), receives: tuple[Wire, ...] = ()) -> None:
        self.found.append(Exchange(self.call, is_edge, sends, receives))


@attrs.frozen
class _Wires:
    """The operations of a rank over some wires, by their names in P2PCommunicator and BridgeCommunicator."""

    recorder: Recorder
    forward: tuple[Wire, ...]
    backward: tuple[Wire, ...]

    @property
    def _is_edge(self) -> bool:
        return self.forward[0][2] != self.forward[0][3]

    def send_forward(self, *_: object, **__: object) -> None:
        self.recorder.add(self._is_edge, sends=self.forward)

    def recv_forward(self, *_: object, **__: object) -> None:
        self.recorder.add(self._is_edge, receives=self.forward)

    def send_backward(self, *_: object, **__: object) -> None:
        self.recorder.add(self._is_edge, sends=self.backward)

    def recv_backward(self, *_: object, **__: object) -> None:
        self.recorder.add(self._is_edge, receives=self.backward)

    def send_forward_recv_backward(self, *_: object, **__: object) -> None:
        self.recorder.add(self._is_edge, self.forward, self.backward)

    def send_backward_recv_forward(self, *_: object, **__: object) -> None:
        self.recorder.add(self._is_edge, self.backward, self.forward)


class _Pipeline:
    """Stands for a rank's P2PCommunicator, which reaches the stage before it and the stage after it."""

    def __init__(self, before: _Wires | None, after: _Wires | None) -> None:
        if before:
            self.recv_forward, self.send_backward = before.recv_forward, before.send_backward
            self.send_backward_recv_forward = before.send_backward_recv_forward
        if after:
            self.send_forward, self.recv_backward = after.send_forward, after.recv_backward
            self.send_forward_recv_backward = after.send_forward_recv_backward


class _Bridge:
    """Stands for one end of a BridgeCommunicator, with the names of its modules, which its caller asks for."""

    def __init__(self, wires: _Wires, src: str, dst: str) -> None:
        self.src_module_name, self.dest_module_name = src, dst
        for name in _CALLS:
            setattr(self, name, getattr(wires, name))


_CALLS = (
    "send_forward",
    "recv_forward",
    "send_backward",
    "recv_backward",
    "send_forward_recv_backward",
    "send_backward_recv_forward",
)


class _Nothing(dict[str, None]):
    """Stands for the tensors of all modules: there are none."""

    def __getitem__(self, key: str) -> None:
        return None


def record(megatron: Megatron, plan: Plan, rank: int) -> list[Pass | Exchange]:
    """What the real schedule does as `rank`. A lane of a stage must be one rank (tp = cp = 1)."""
    recorder = Recorder()
    with megatron.as_rank(plan, rank) as grids, pytest.MonkeyPatch.context() as patch:
        communicator = megatron.communicator(plan, grids)
        communicator.config.variable_seq_lengths = True
        for name, info in communicator.rank_module_map.items():
            _replace(recorder, rank, name, info)
        for name in _CALLS:
            patch.setattr(communicator, name, recorder.counted(getattr(communicator, name)))
        patch.setattr(megatron.schedules.torch, "zeros", lambda *_args, **_kwargs: 0)
        step = recorder.step(Direction.FORWARD, (_Nothing(), 0))
        patch.setattr(megatron.schedules, "forward_step", step)
        back = recorder.step(Direction.BACKWARD, _Nothing())
        patch.setattr(megatron.schedules, "backward_step_multimodule", back)
        megatron.schedules.forward_backward_pipelining_without_interleaving(
            forward_step_func=None,
            data_iterator=None,
            model=SimpleNamespace(config=communicator.config),
            num_microbatches=plan.batch.num_microbatches,
            seq_length=1,
            micro_batch_size=1,
            p2p_communicator=communicator,
            pg_collection=SimpleNamespace(has_language_model=lambda: False, language_model_module_name="language"),
        )
    return recorder.found


def _replace(recorder: Recorder, rank: int, name: str, info: Any) -> None:
    pipeline = info.p2p_communicator
    first, last = info.pp_rank == 0, info.pp_rank == info.pp_size - 1
    before = None if first else recorder.wires(rank, [pipeline.prev_rank], name, name, is_source=False)
    after = None if last else recorder.wires(rank, [pipeline.next_rank], name, name, is_source=True)
    info.p2p_communicator = _Pipeline(before, after)
    for attribute, is_source in (("bridge_comms_as_src_module", True), ("bridge_comms_as_dest_module", False)):
        found = []
        for bridge in getattr(info, attribute):
            src, dst = bridge.src_module_name, bridge.dest_module_name
            mine = bridge.comm_map[rank]
            peers = mine.send_to_ranks if is_source else mine.recv_from_ranks
            found.append(_Bridge(recorder.wires(rank, peers, src, dst, is_source), src, dst))
        setattr(info, attribute, found)


def drawn_durations(draw: Random, plan: Plan) -> Durations:
    """Durations in whole seconds, so that times are exact. Many are alike, and many are zero."""
    return Durations.of(
        plan,
        lambda _stage, _direction: float(draw.choice([0, 1, 2, 3, 7, 20])),
        lambda _stage: float(draw.choice([0, 0, 1, 4])),
        lambda _src, _dst, _way: float(draw.choice([0, 0, 2, 5])),
    )


# ---- replay

Node = tuple[Any, ...]


@attrs.frozen
class Replayed:
    """The times of a step, by rank.

    Attributes:
        passes: the start and end of every pass of every module, in order.
        slacks: by how much each of these could be longer before the step were longer.
        in_flight: the largest number of microbatches in flight at once.
    """

    passes: dict[int, list[tuple[float, float]]]
    slacks: dict[int, list[float]]
    in_flight: dict[int, int]


def replay(
    plan: Plan, records: dict[int, list[Pass | Exchange]], durations: Durations, edges: Sends, hops: Sends
) -> Replayed:
    """When everything recorded happens. Raises graphlib.CycleError if the ranks wait for one another."""
    graph = _Graph(plan, durations, {True: edges, False: hops})
    for rank, items in records.items():
        graph.add_rank(rank, list(_grouped(items, edges, hops)), _stages(plan, rank))
    times, slack = longest_paths(graph.before)
    spans = {rank: [(times[before], times[after]) for before, after in rows] for rank, rows in graph.passes.items()}
    slacks = {rank: [slack[after] for _, after in rows] for rank, rows in graph.passes.items()}
    return Replayed(spans, slacks, {rank: _fullest(items) for rank, items in records.items()})


def _stages(plan: Plan, rank: int) -> list[Stage]:
    return [Stage(name, view.stage) for name, view in plan.view(rank).stages.items()]


def _grouped(items: list[Pass | Exchange], edges: Sends, hops: Sends) -> list[Pass | list[Exchange]]:
    """Exchanges by what is posted together: of each call, those with posted sends, then every other one alone."""
    found: list[Pass | list[Exchange]] = []
    for call, together in groupby(items, lambda item: item.call if isinstance(item, Exchange) else None):
        if call is None:
            found += together
            continue
        exchanges = list(together)
        posted = [one for one in exchanges if (edges if one.is_edge else hops) is Sends.POSTED]
        found += ([posted] if posted else []) + [[one] for one in exchanges if one not in posted]
    return found


def _fullest(items: list[Pass | Exchange]) -> int:
    now = fullest = 0
    for item in items:
        if isinstance(item, Pass):
            now += 1 if item.direction is Direction.FORWARD else -1
            fullest = max(fullest, now)
    return fullest


def seconds_of(plan: Plan, durations: Durations, wire: Wire) -> float:
    """How many seconds a message takes."""
    sender, receiver, src, dst, way = wire
    if src != dst:
        return durations.edges[src, dst, way]
    earlier = min(plan.view(rank).stages[src].stage for rank in (sender, receiver))
    return durations.hops[Stage(src, earlier)]


class _Graph:
    """Nodes are instants; an arc of a weight is the least time between two of them."""

    def __init__(self, plan: Plan, durations: Durations, sends: dict[bool, Sends]) -> None:
        self.plan, self.durations, self.sends = plan, durations, sends
        self.before: dict[Node, list[tuple[Node, float]]] = {("start",): []}
        self.passes: dict[int, list[tuple[Node, Node]]] = {}
        self.crossed: dict[tuple[int, Wire], int] = {}

    def add_rank(self, rank: int, items: list[Pass | list[Exchange]], stages: list[Stage]) -> None:
        here: Node = ("start",)
        rows = self.passes[rank] = []
        for number, item in enumerate(items):
            if isinstance(item, Pass):
                ordered = stages if item.direction is Direction.FORWARD else stages[::-1]
                for stage in ordered:
                    after: Node = (rank, number, stage)
                    self.before[after] = [(here, self.durations.passes[stage, item.direction])]
                    rows.append((here, after))
                    here = after
            else:
                here = self._add_exchange(rank, number, here, item)

    def _add_exchange(self, rank: int, number: int, here: Node, exchanges: list[Exchange]) -> Node:
        after: Node = (rank, number)
        arcs = self.before[after] = [(here, 0.0)]
        for exchange in exchanges:
            for wire in (*exchange.sends, *exchange.receives):
                arrived = self._message(rank, wire, here)
                if wire in exchange.receives or self.sends[exchange.is_edge] is Sends.WAITED:
                    arcs.append((arrived, 0.0))
        return after

    def _message(self, rank: int, wire: Wire, here: Node) -> Node:
        k = self.crossed.get((rank, wire), 0)
        self.crossed[rank, wire] = k + 1
        seconds = seconds_of(self.plan, self.durations, wire)
        self.before.setdefault((wire, k), []).append((here, seconds))
        return (wire, k)


def longest_paths(before: dict[Node, list[tuple[Node, float]]]) -> tuple[dict[Node, float], dict[Node, float]]:
    """The time of each node, and by how much it could be later before the end were later.

    Args:
        before: for each node, the nodes that come before it, with the least time from them to it.

    Raises:
        graphlib.CycleError: a node comes before itself.
    """
    sorter = TopologicalSorter({node: [one for one, _ in arcs] for node, arcs in before.items()})
    order = list(sorter.static_order())
    times: dict[Node, float] = {}
    for node in order:
        times[node] = max((times[one] + weight for one, weight in before[node]), default=0.0)
    rest = dict.fromkeys(order, 0.0)
    for node in reversed(order):
        for one, weight in before[node]:
            rest[one] = max(rest[one], weight + rest[node])
    end = max(times.values())
    return times, {node: end - times[node] - rest[node] for node in order}
