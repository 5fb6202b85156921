"""A record of what a rank of the executor does in a step, and an independent replay of it as a longest path.

`record` runs megatron-core's schedule function with the executor's own communicator and its model's forward pass. Only
the parts that talk to other ranks or compute are replaced (bridges, the communicator between stages, encoders and the
language model), by ones that write down what they were asked for. A backward pass is the forward pass in reverse.

`replay` makes one graph of the records of all ranks. It knows nothing of the simulation's units and programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import count
from types import SimpleNamespace

import attrs
import pytest

from planner import Direction, GroupKind, Plan
from planner.cost.simulation.durations import Durations
from planner.cost.simulation.schedule import Stage

from .megatron import Megatron
from .schedule import Node, Wire, longest_paths, seconds_of

FORWARD, BACKWARD = Direction


@attrs.frozen
class Computed:
    """The part of a pass that is one module's."""

    stage: Stage
    way: Direction


@attrs.frozen
class Came:
    """The rank came to a message, as its sender or its receiver, and went on."""

    wire: Wire


@attrs.frozen
class Awaited:
    """The rank waited until a message had been taken."""

    wire: Wire


Event = Computed | Came | Awaited


class _Anything:
    """Stands for a tensor, and for a mapping of all modules to theirs."""

    ndim = 1

    def __getitem__(self, key: str) -> _Anything:
        return self

    def add_(self, other: object) -> _Anything:  # noqa: ARG002
        return self


_TENSOR = _Anything()


@attrs.frozen
class _Recorder:
    plan: Plan
    rank: int
    events: list[Event] = attrs.field(factory=list)

    def exchange(self, sends: list[Wire], receives: list[Wire]) -> None:
        """Post everything, then wait for everything."""
        self.events.extend((*map(Came, sends), *map(Came, receives), *map(Awaited, receives), *map(Awaited, sends)))

    def over_edge(self, src: str, dst: str, way: Direction) -> tuple[list[Wire], list[Wire]]:
        traffic = self.plan.traffic(src, dst, self.rank, way)
        return tuple(
            [(message.sender, message.receiver, src, dst, way) for message in messages]
            for messages in (traffic.sends, traffic.receives)
        )  # type: ignore[return-value]  # two of them

    def bridge(self, _groups: object, src: str, dst: str, *_: object) -> SimpleNamespace:
        """Stands for executor.bridge.bridge.DisjointBridge."""
        is_source = self.plan.view(self.rank).role.is_last_stage(src)
        out, back = (FORWARD, BACKWARD) if is_source else (BACKWARD, FORWARD)

        def send(_value: object) -> None:
            self.events.extend(map(Came, self.over_edge(src, dst, out)[0]))

        def expect() -> Callable[[], _Anything]:
            wires = self.over_edge(src, dst, back)[1]
            self.events.extend(map(Came, wires))

            def finish() -> _Anything:
                self.events.extend(map(Awaited, wires))
                return _TENSOR

            return finish

        return SimpleNamespace(src=src, dst=dst, is_source=is_source, send=send, expect=expect)

    def stages(self, name: str, _config: object) -> SimpleNamespace:
        """Stands for P2PCommunicator, whose calls wait for all that they post."""
        (ranks,) = (ranks for ranks in self.plan.groups(name, GroupKind.PP) if self.rank in ranks)
        at = ranks.index(self.rank)

        def between(low: int, way: Direction) -> list[Wire]:
            sender, receiver = (ranks[low], ranks[low + 1])[:: 1 if way is FORWARD else -1]
            return [(sender, receiver, name, name, way)]

        return SimpleNamespace(
            recv_forward=lambda *_: self.exchange([], between(at - 1, FORWARD)),
            send_forward=lambda *_: self.exchange(between(at, FORWARD), []),
            recv_backward=lambda *_: self.exchange([], between(at, BACKWARD)),
            send_backward=lambda *_: self.exchange(between(at - 1, BACKWARD), []),
            send_forward_recv_backward=lambda *_: self.exchange(between(at, FORWARD), between(at, BACKWARD)),
            send_backward_recv_forward=lambda *_: self.exchange(between(at - 1, BACKWARD), between(at - 1, FORWARD)),
        )

    def compute(self, name: str, way: Direction) -> None:
        self.events.append(Computed(Stage(name, self.plan.view(self.rank).stages[name].stage), way))


def record(megatron: Megatron, plan: Plan, rank: int) -> list[Event]:
    """What a rank does in a step. A lane of a stage must be one rank (tp = cp = 1)."""
    pipeline, model = import_module("executor.bridge.communicator"), import_module("executor.model.model")
    collections = import_module("megatron.core.process_groups_config")
    recorder, view = _Recorder(plan, rank), plan.view(rank)
    passed: list[tuple[str, ...]] = []  # the events of one forward pass: (module) or (src, dst)

    def shared_bridge(src: str, dst: str) -> SimpleNamespace:
        def exchange(_value: object, anchor: object) -> tuple[_Anything, object]:
            passed.append((src, dst))
            recorder.exchange(*recorder.over_edge(src, dst, FORWARD))
            return _TENSOR, anchor

        return SimpleNamespace(src=src, dst=dst, exchange=exchange)

    def computed(name: str) -> _Anything:
        passed.append((name,))
        recorder.compute(name, FORWARD)
        return _TENSOR

    stub = SimpleNamespace(
        plan=plan,
        _order=model.topological_order([module.name for module in plan.modules], plan.edges),
        shared_bridges=[
            shared_bridge(src, dst)
            for src, dst in plan.pipeline.shared
            if view.role.is_last_stage(src) or view.role.is_first_stage(dst)
        ],
        modality_submodules=[name for name in view.role.modules if name != "language"],
        language_model=_TENSOR if "language" in view.role.modules else None,
        _encode=lambda name, *_: computed(name),
        _hidden_states=lambda *_: None,
        _outputs=lambda *_: _TENSOR,
        _forward_language_module=lambda *_: (computed("language"), None),
    )

    def forward_step(*_: object, **__: object) -> tuple[_Anything, int]:
        passed.clear()
        model.PlannedMimoModel.forward(stub, None)
        return _TENSOR, 0

    def backward_step(*_: object, **__: object) -> _Anything:
        for item in reversed(passed):
            if len(item) == 1:
                recorder.compute(item[0], BACKWARD)
            else:
                recorder.exchange(*recorder.over_edge(*item, BACKWARD))
        return _TENSOR

    groups = SimpleNamespace(plan=plan, view=view, rank=rank, get=lambda name, _kind: name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "DisjointBridge", recorder.bridge)
        patch.setattr(pipeline, "P2PCommunicator", recorder.stages)
        patch.setattr(megatron.schedules.torch, "zeros", lambda *_, **__: 0)
        patch.setattr(megatron.schedules, "forward_step", forward_step)
        patch.setattr(megatron.schedules, "backward_step_multimodule", backward_step)
        config = megatron.config.ModelParallelConfig()
        config.variable_seq_lengths = True
        megatron.schedules.forward_backward_pipelining_without_interleaving(
            forward_step_func=None,
            data_iterator=None,
            model=SimpleNamespace(config=config),
            num_microbatches=plan.batch.num_microbatches,
            seq_length=1,
            micro_batch_size=1,
            p2p_communicator=pipeline.PipelineCommunicator(groups, config, None),
            pg_collection=collections.MultiModuleProcessGroupCollection({"": None}),
        )
    return recorder.events


def replay(
    plan: Plan, records: dict[int, list[Event]], durations: Durations
) -> dict[int, list[tuple[Stage, float, float]]]:
    """Per rank, what it computed and when. Raises graphlib.CycleError if the ranks wait for one another."""
    before: dict[Node, list[tuple[Node, float]]] = {("start",): []}
    rows = {rank: list(_add(before, plan, rank, events, durations)) for rank, events in records.items()}
    times, _ = longest_paths(before)
    return {rank: [(stage, times[start], times[end]) for stage, start, end in found] for rank, found in rows.items()}


def _add(
    before: dict[Node, list[tuple[Node, float]]], plan: Plan, rank: int, events: list[Event], durations: Durations
) -> Iterator[tuple[Stage, Node, Node]]:
    here: Node = ("start",)
    came: dict[Wire, Iterator[int]] = {}
    awaited: dict[Wire, Iterator[int]] = {}
    for number, event in enumerate(events):
        after: Node = (rank, number)
        if isinstance(event, Computed):
            before[after] = [(here, durations.passes[event.stage, event.way])]
            yield event.stage, here, after
        elif isinstance(event, Awaited):
            k = next(awaited.setdefault(event.wire, count()))
            before[after] = [(here, 0.0), ((event.wire, k), 0.0)]
        else:
            k = next(came.setdefault(event.wire, count()))
            before.setdefault((event.wire, k), []).append((here, seconds_of(plan, durations, event.wire)))
            continue
        here = after
