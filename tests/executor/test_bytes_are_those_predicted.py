"""Law: real ranks on gloo send exactly what the prediction counts, in every operation of a step.

For every rank, communicator and operation the number of buffers of each size is compared, without any tolerance. What
`mimo predict` prints is what the ring algorithms move for these buffers. Each by a rule of its own, this leaves out:

- **over the world**: numbers of tokens, the loss, norms and the agreement on an update: 8 to 16 bytes a step.
- **alone**: operations in a group of one rank, which megatron-core starts all the same. Nothing moves.
- **integers**: shapes that stages send, tokens per expert, boundaries of samples. A prediction is of values.
- **scalars**: one number, reduced over the ranks of a module: the norm of its gradients.
- **padding** of the distributed optimizer's buffers, which depends on the order and size of each parameter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import pytest

from planner import Axis, Freeze, GroupKind, Plan, Strategy, Training, compile_spec
from planner.cost.predict import predict
from planner.cost.simulation.schedule import Stage
from planner.cost.timing.workload import Workload, workload_of
from planner.cost.work.ops import Collective, CollectiveOp, share_moved
from planner.cost.work.parameters import parameter_bytes
from tests.executor.jobs import ranks, specs

SCALAR = 4  # bytes

Sizes = dict[tuple[str, str], Counter[int]]  # number of buffers by their bytes, for each communicator and operation


def tiny_plan(
    language: dict[str, Any], images: dict[str, Any], training: dict[str, Any] | None = None, **changes: Any
) -> Plan:
    """A tiny plan in bf16, with one image in every sample and two microbatches."""
    made = specs.plan(language, images, fixed=True, **changes)
    chosen = Training(**({"optimizer": "adam"} | (training or {})))
    return compile_spec(attrs.evolve(made.to_spec(), training=chosen), world_size=made.world_size)


SP = {"tp": 2, "sequence_parallel": True}
TIED = {"language": specs.language(untie_embeddings_and_output_weights=False)}
EXPERTS = {"language": specs.language(num_moe_experts=4, moe_router_topk=2)}
BIASES = {
    "language": specs.language(
        normalization="LayerNorm", add_bias_linear=True, gated_linear_unit=False, activation="gelu"
    ),
    "images": specs.vision(projector_hidden_size=None),
}
FIRST = {"rank_offset": 0}
FROZEN = Freeze(encoder=True, projection=True)

PLANS = {
    "tp 2": tiny_plan({"tp": 2}, {"tp": 2}),
    "tp 2, fp32": tiny_plan({"tp": 2}, {"tp": 2}, {"dtype": "fp32"}),
    "tp 2, frozen encoder": tiny_plan({"tp": 2}, {"tp": 2}, freeze={"images": Freeze(encoder=True)}),
    "tp 2, frozen language": tiny_plan(SP, {"tp": 2}, freeze={"language": Freeze(encoder=True, projection=True)}),
    "tp 2, images frozen": tiny_plan({"tp": 2}, {"tp": 2}, freeze={"images": FROZEN}),
    "8 ranks: tp 2, frozen encoder of three stages": tiny_plan(
        {"tp": 2}, {"tp": 2, "pp": 3}, models={"images": specs.vision(num_layers=3)}, freeze={"images": FROZEN}
    ),
    "sequence parallel": tiny_plan(SP, {}),
    "sequence parallel, no encoder": specs.alone(tiny_plan(SP, {})),
    "sequence parallel, pp 2, no encoder": specs.alone(tiny_plan(SP | {"pp": 2}, {})),
    "sequence parallel, biases, pp 2": tiny_plan(SP | {"pp": 2}, {"tp": 2}, models=BIASES),
    "sequence parallel, all computed again": tiny_plan(SP, {"tp": 2}, recompute="full"),
    "pp 2": tiny_plan({"pp": 2}, {"pp": 2}),
    "pp 2, tp 2, tied embeddings": tiny_plan({"pp": 2, "tp": 2}, {}, models=TIED),
    "dp 2": tiny_plan({"dp": 2}, {"dp": 2}),
    "dp 2, distributed optimizer": tiny_plan({"dp": 2}, {"dp": 2}, {"distributed_optimizer": True}),
    "dp 2, ep 2": tiny_plan({"dp": 2, "ep": 2}, {}, models=EXPERTS),
    "selective": tiny_plan({"tp": 2}, {}, recompute="selective"),
    "tp 2, experts": tiny_plan(SP, {}, models=EXPERTS),
    "8 ranks: tp 2, dp 2, ep 2, experts, distributed optimizer": tiny_plan(
        SP | {"dp": 2, "ep": 2}, {"dp": 4}, {"distributed_optimizer": True}, models=EXPERTS
    ),
    "experts beside an encoder, distributed optimizer": tiny_plan(
        {"dp": 4, "ep": 2}, {"dp": 4}, {"distributed_optimizer": True}, models=EXPERTS, placement="colocated"
    ),
    "experts, tp 2, dp 2, ep 2, all computed again": tiny_plan(
        SP | {"dp": 2, "ep": 2}, {}, models=EXPERTS, recompute="full"
    ),
    "experts divided over tp": tiny_plan(SP | {"expt_tp": 2}, {}, models=EXPERTS),
    "8 ranks: tp 2, dp 2, ep 2, experts; tp 4": tiny_plan(SP | {"dp": 2, "ep": 2}, {"tp": 4}, models=EXPERTS),
    "8 ranks: tp 2, two encoders": tiny_plan({"tp": 2, "pp": 2}, {"tp": 2}, audio_parallel={"dp": 2}),
    "fan-out": tiny_plan({"dp": 4}, {"tp": 2}),
    "8 ranks: tp 2, pp 2; fan-in from tp 2, dp 2": tiny_plan({"tp": 2, "pp": 2}, {"tp": 2, "dp": 2}),
    "8 ranks: tp 2, pp 2, dp 2; dp 4 on its first stage": tiny_plan(
        {"tp": 2, "pp": 2, "dp": 2} | FIRST, {"dp": 4} | FIRST, {"distributed_optimizer": True}
    ),
    "8 ranks: tp 2, dp 4; dp 8 on the same": tiny_plan(
        {"tp": 2, "dp": 4}, {"dp": 8}, placement="colocated", micro_size=8
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_every_operation_of_a_step_is_predicted(name: str) -> None:
    plan = PLANS[name]
    found = ranks.run(plan.world_size, "byte_jobs:recorded_step", plan.to_json())
    work = workload_of(plan, specs.LOCAL)
    recorded = [recorded_sizes(rank) for rank in found]
    predicted = [predicted_sizes(work, number, rank) for number, rank in enumerate(found)]
    for number, (have, want) in enumerate(zip(recorded, predicted, strict=True)):
        assert without_exchanges(have) == without_exchanges(want), f"rank {number}"
    # The router chooses how many tokens an expert gets, but not how many all experts get.
    assert exchanged(recorded) == exchanged(predicted)
    for src, dst in plan.edges:
        check_bridge(work, src, dst, found)


def recorded_sizes(rank: dict[str, Any]) -> Sizes:
    """What a rank did, without what the rules leave out and without bridges, which have another test."""
    sizes: Sizes = {}
    for (communicator, operation, dtype), counts in rank["operations"].items():
        for num_bytes, count in counts.items():
            if not (is_left_out(rank, communicator, operation, dtype, num_bytes) or is_bridges(rank, communicator)):
                sizes.setdefault((communicator, operation), Counter())[num_bytes] += count
    return sizes


def is_left_out(rank: dict[str, Any], communicator: str, operation: str, dtype: str, num_bytes: int) -> bool:
    """Whether one of the rules above leaves an operation out."""
    is_integer = dtype.startswith(("int", "uint", "bool"))
    is_scalar = operation == CollectiveOp.ALL_REDUCE and dtype == "float32" and num_bytes == SCALAR
    return communicator == "world" or rank["sizes"][communicator] == 1 or is_integer or is_scalar


def predicted_sizes(work: Workload, number: int, rank: dict[str, Any]) -> Sizes:
    """What the prediction says of a rank."""
    sizes: Sizes = {}
    view, num = work.plan.view(number), work.plan.batch.num_microbatches
    for name, coords in view.coords.items():
        stage = coords[Axis.PP]
        for message, times in messages_of(work, name, stage):
            communicator = rank["names"][f"{name}:{message.kind}"]
            if rank["sizes"][communicator] > 1:
                num_bytes = message.num_bytes + padded(work, message, rank["padding"][name])
                assert num_bytes == int(num_bytes)
                key = communicator, str(message.op)
                sizes.setdefault(key, Counter())[int(num_bytes)] += times * message.count
        for before in (Stage(name, stage - 1), Stage(name, stage)):
            if before in work.hops:
                key = rank["names"][f"{name}:pp"], "send"
                sizes.setdefault(key, Counter())[int(work.hops[before][0].num_bytes)] += num
    return sizes


def messages_of(work: Workload, name: str, stage: int) -> Iterator[tuple[Collective, int]]:
    """The collectives of a rank in a step, each with the number of times that it happens."""
    key, num = Stage(name, stage), work.plan.batch.num_microbatches
    for part in work.works[key].parts:
        for message in part.forward.collectives + part.backward.collectives:
            yield message, num * part.count
    for message in work.updates[key][0]:
        yield message, 1


def padded(work: Workload, message: Collective, num_elements: int) -> int:
    """The bytes of padding in a message, by the rule above."""
    if message.kind != GroupKind.DP_CP:
        return 0
    gathers = message.op is CollectiveOp.ALL_GATHER
    return num_elements * (parameter_bytes(work.plan) if gathers else work.settings.gradient_bytes)


def without_exchanges(sizes: Sizes) -> Sizes:
    return {key: counts for key, counts in sizes.items() if key[1] != CollectiveOp.ALL_TO_ALL}


def exchanged(ranks_sizes: Sequence[Sizes]) -> dict[str, tuple[int, int]]:
    """The number of all-to-alls on each communicator, and their bytes, over all ranks."""
    found: dict[str, tuple[int, int]] = {}
    for sizes in ranks_sizes:
        for (communicator, operation), counts in sizes.items():
            if operation == CollectiveOp.ALL_TO_ALL:
                calls, num_bytes = found.get(communicator, (0, 0))
                total = sum(size * count for size, count in counts.items())
                found[communicator] = calls + counts.total(), num_bytes + total
    return found


def is_bridges(rank: dict[str, Any], communicator: str) -> bool:
    """Whether a communicator of several ranks belongs to a bridge, which shares it with nothing else."""
    return "->" in communicator and rank["sizes"][communicator] > 1


def check_bridge(work: Workload, src: str, dst: str, found: list[dict[str, Any]]) -> None:
    """Assert what crosses an edge, over all ranks, and what the lane of each rank does by itself."""
    plan, num = work.plan, work.plan.batch.num_microbatches
    ways = dict(zip(("bridge_dst", "bridge_src"), work.crossings[src, dst], strict=True))
    sent: Counter[str] = Counter()
    for number, rank in enumerate(found):
        lanes: Sizes = {}
        for (communicator, operation, dtype), counts in rank["operations"].items():
            if f"{src}->{dst}:" not in communicator or is_left_out(rank, communicator, operation, dtype, SCALAR):
                continue
            if operation == CollectiveOp.SEND:
                shared = plan.bridge(src, dst).strategy is Strategy.GATHER
                way = "both" if shared else "bridge_dst" if number in plan.module(src).grid else "bridge_src"
                sent[way] += sum(size * count for size, count in counts.items())
            else:
                lanes[communicator, operation] = Counter(counts)
        wanted: Sizes = {}
        for kind, crossing in ways.items():
            communicator = rank["names"].get(f"{src}->{dst}:{kind}", "")
            for step in crossing.after if rank["sizes"].get(communicator, 1) > 1 else ():
                wanted[communicator, str(step.op)] = Counter({int(step.num_bytes): num})
        assert lanes == wanted, f"rank {number}"
    predicted = Counter({kind: num * int(crossing.num_bytes) for kind, crossing in ways.items()})
    if "both" in sent:
        predicted = Counter(both=predicted.total())
    assert +sent == +predicted


@pytest.mark.parametrize("name", PLANS)
def test_traffic_is_what_these_operations_move(name: str) -> None:
    """For every stage and kind, they move what `mimo predict --json` prints."""
    plan = PLANS[name]
    work = workload_of(plan, specs.LOCAL)
    for cost in predict(plan, settings=specs.LOCAL).stages:
        moved: Counter[str] = Counter()
        for message, times in messages_of(work, cost.module, cost.stage):
            size = len(plan.groups(cost.module, message.kind)[0])
            moved[message.kind] += times * message.count * message.num_bytes * share_moved(message.op, size)
        for before in (Stage(cost.module, cost.stage - 1), Stage(cost.module, cost.stage)):
            if before in work.hops:
                moved["pp"] += plan.batch.num_microbatches * work.hops[before][0].num_bytes
        assert {traffic.kind: traffic.num_bytes for traffic in cost.traffic} == +moved
