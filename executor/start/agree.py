"""Either all ranks run the same plan with the same versions, or none of them creates a group.

Every rank writes to the store what it was started with; rank 0 compares, and writes a verdict that all ranks read. So
each rank needs two operations of the store, and all raise the same error. If the comparison came after groups exist, a
difference would be a hang; if each rank made it, the reads would grow with the square of the number of ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta

import attrs
from torch._C._distributed_c10d import Store

from ..errors import DisagreementError
from .meet import came, ranks_text
from .nodes import Place, shape_fault

ANY_NODE_SHAPE = "MIMO_ANY_NODE_SHAPE"  # the variable by which a loop of one's own does without the plan's nodes
_OK = "ok"
_FIRST = ("command", "plan")  # whoever differs in these differs in others as well, which would only distract
_MAX_VARIANTS = 4
_WITHDRAWN = "withdrawn"


@attrs.frozen(kw_only=True)
class Nodes:
    """What the plan says of nodes, and where this rank runs.

    Attributes:
        gpus_per_node: the plan's; None if it does not say, so that nothing is compared.
        place: where this rank runs.
        any_shape: whether a difference is only told.
    """

    gpus_per_node: int | None
    place: Place
    any_shape: bool = False


def agree(
    store: Store,
    rank: int,
    world_size: int,
    plan_world_size: int,
    found: Mapping[str, str],
    timeout: timedelta,
    *,
    nodes: Nodes | None = None,
) -> str:
    """Return once it is known that all ranks were started alike; else raise, on all of them. Collective.

    Args:
        store: empty, and used for nothing else.
        found: what this rank was started with, as names and values; `plan` is the plan's digest.
        timeout: how long rank 0 waits for the others.
        nodes: the plan's nodes and this rank's place; None to compare no nodes.

    Returns:
        How the nodes differ from the plan's, if any shape is allowed; else "".

    Raises:
        DisagreementError: the world does not have the plan's size, a rank did not come, values differ, or ranks do not
            lie on nodes as the plan says.
    """
    mine = {"values": dict(found), "place": attrs.asdict(nodes.place) if nodes else None}
    store.set(f"rank{rank}", json.dumps(mine, sort_keys=True))
    if rank == 0:
        store.set("verdict", _verdict(store, world_size, plan_world_size, nodes, timeout))
    if not came(store, ["verdict"], 2 * timeout):  # rank 0 itself may wait for the others for one timeout
        raise DisagreementError(f"rank {rank} had no answer from rank 0 within {2 * timeout}")
    verdict, _, told = store.get("verdict").decode().partition("\n")
    if verdict != _OK:
        raise DisagreementError("\n".join(filter(None, [verdict, told])))
    return told


def withdraw(store: Store, rank: int, reason: str) -> None:
    """Say that this rank will not agree, so that the others need not wait for it."""
    store.set(f"rank{rank}", json.dumps({_WITHDRAWN: reason}))


def check_world_size(world_size: int, plan_world_size: int) -> None:
    """Raise DisagreementError unless the world has as many ranks as the plan."""
    if world_size != plan_world_size:
        raise DisagreementError(_another_size(world_size, plan_world_size))


def _another_size(world_size: int, plan_world_size: int) -> str:
    return (
        f"world size = {world_size}, but the plan is for {plan_world_size} ranks: "
        f"start {plan_world_size} processes (torchrun --nproc-per-node ...), or give a layout for {world_size}"
    )


def _verdict(store: Store, world_size: int, plan_world_size: int, nodes: Nodes | None, timeout: timedelta) -> str:
    """`ok`, perhaps with a line of what is only told; or why the ranks cannot run together."""
    keys = [f"rank{rank}" for rank in range(world_size)]
    if not came(store, keys, timeout):
        absent = [rank for rank, key in enumerate(keys) if not store.check([key])]
        if absent:
            return f"{ranks_text(absent)} did not come within {timeout}"
    claims = [json.loads(claim) for claim in store.multi_get(keys)]
    withdrawn = {rank: claim[_WITHDRAWN] for rank, claim in enumerate(claims) if _WITHDRAWN in claim}
    if withdrawn:
        rank, reason = next(iter(withdrawn.items()))
        return f"{ranks_text(list(withdrawn))} cannot start: rank {rank}: {reason}"
    if different := _differences([claim["values"] for claim in claims]):
        remedy = "Give every rank the same command, plan file, options and versions"
        return f"ranks were started differently: {'; '.join(different)}. {remedy}"
    if world_size != plan_world_size:
        return _another_size(world_size, plan_world_size)
    fault = shape_fault([Place(**claim["place"]) for claim in claims], nodes.gpus_per_node) if nodes else ""
    if fault and nodes is not None and not nodes.any_shape:
        compiled = "compile the spec for these nodes (mimo plan SPEC --nodes N --gpus-per-node G --out PLAN)"
        return f"{fault}\n    fix: {compiled}, or pass --any-node-shape ({ANY_NODE_SHAPE}=1 for a loop of your own)"
    return f"{_OK}\n{fault}"


def _differences(values: Sequence[Mapping[str, str]]) -> list[str]:
    """What differs, over all names that any rank has."""
    names = dict.fromkeys(name for found in values for name in found)
    told = {name: text for name in names if (text := _difference(name, [found.get(name) for found in values]))}
    return next(([told[name]] for name in _FIRST if name in told), list(told.values()))


def _difference(name: str, values: Sequence[str | None]) -> str:
    """Which ranks have which value of a name; "" if all have the same."""
    ranks: dict[str | None, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)
    if len(ranks) == 1:
        return ""
    variants = [
        f"{'not given' if value is None else value} on {ranks_text(held)}"
        for value, held in list(ranks.items())[:_MAX_VARIANTS]
    ]
    more = [f"{len(ranks) - _MAX_VARIANTS} other values"] if len(ranks) > _MAX_VARIANTS else []
    return f"{name} {', '.join(variants + more)}"
