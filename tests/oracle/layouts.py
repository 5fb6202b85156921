"""Layouts for comparisons with megatron-core: random ones, and the published sweep.

Independent of tests/strategies.py, smaller, and able to keep to what megatron-core's bridges accept.
"""

from __future__ import annotations

import csv
from itertools import permutations
from math import lcm, prod

import attrs
from hypothesis import settings
from hypothesis import strategies as st

from planner import Batch, Module, Parallel, Plan, Spec, compile_spec
from planner.base.axes import DENSE_AXES, Axis
from planner.verify import verify
from tests import DATA

LANGUAGE = "language"
NAMES = ("images", "audio", "video", "generator")
ORDERS = tuple(permutations(DENSE_AXES))
# megatron-core's bridges ask that one dp divides the other, as any two sizes of a family do.
DIVIDING = ((1, 2, 4), (1, 3, 6), (1, 2, 6))

SEQ_LENGTH = 6144  # divisible by every cp

SWEEP = DATA / "llava_image_sweep.csv"
SWEEP_GLOBAL_SIZE = 96

# Hundreds of layouts for each comparison, and more with --long.
MANY = settings(max_examples=max(200, settings().max_examples))


def planned(spec: Spec) -> Plan:
    """The plan of a spec, proven by brute force."""
    plan = compile_spec(spec)
    assert verify(plan) > 0
    return plan


# ---- the published sweep


def sweep_rows() -> list[dict[str, str]]:
    """The rows of the sweep, each by column, without its comments."""
    with SWEEP.open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def sweep_spec(row: dict[str, str]) -> Spec:
    def module(prefix: str) -> Module:
        sizes = {axis: int(row[f"{prefix}_{axis}"]) for axis in ("tp", "pp", "dp")}
        return Module(parallel=Parallel(**sizes, rank_offset=int(row[f"{prefix}_offset"])))

    return Spec(
        batch=Batch(global_size=SWEEP_GLOBAL_SIZE, micro_size=int(row["micro_size"]), seq_length=4096),
        modules={LANGUAGE: module("llm"), "images": module("vision")},
    )


# ---- random layouts


@attrs.frozen(kw_only=True)
class Limits:
    """The limits of random layouts.

    Attributes:
        placements: the placements to choose from: disjoint, colocated, shared (encoders share ranks, but none of
            language's) or overlapping.
        cp, pp: whether the axis may be larger than 1.
        divide: whether one of any two dp sizes must divide the other.
        orders: the orders of axes to choose from.
        min_modules, max_modules: the fewest and the most modules.
        max_ranks: the most ranks of a module.
    """

    placements: tuple[str, ...] = ("disjoint", "colocated", "shared", "overlapping")
    cp: bool = True
    pp: bool = True
    divide: bool = False
    orders: tuple[tuple[Axis, ...], ...] = ORDERS
    min_modules: int = 1
    max_modules: int = 4
    max_ranks: int = 24


def divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


@st.composite
def parallels(draw: st.DrawFn, limits: Limits, num_ranks: int, lanes: tuple[int, ...], is_language: bool) -> Parallel:
    """Axes whose product is `num_ranks`, in any order, with expert axes for language."""
    rest = num_ranks
    sizes = {}
    wanted = {
        "dp": lanes,
        "pp": (1, 2, 3, 4) if limits.pp else (1,),
        "cp": (1, 2, 3) if limits.cp else (1,),
    }
    for axis in draw(st.permutations(list(wanted))):
        sizes[axis] = draw(st.sampled_from([size for size in wanted[axis] if rest % size == 0]))
        rest //= sizes[axis]
    parallel = Parallel(tp=rest, **sizes, order=draw(st.sampled_from(limits.orders)))
    if not is_language:
        return parallel
    expt_tp, ep = draw(st.sampled_from(expert_sizes(parallel)))
    return attrs.evolve(parallel, expt_tp=expt_tp, ep=ep)


def expert_sizes(parallel: Parallel) -> list[tuple[int, int]]:
    """Pairs (expt_tp, ep) that HyperCommGrid can express: the stride of pp falls between axes or cuts one evenly.

    The others are left to the proof by brute force.
    """
    sizes = {str(axis): getattr(parallel, axis) for axis in DENSE_AXES}
    per_stage = prod(sizes.values()) // sizes["pp"]
    stride = prod(sizes[axis] for axis in parallel.order[: parallel.order.index(Axis.PP)])
    return [
        (expt_tp, ep)
        for expt_tp in divisors(per_stage)
        for ep in divisors(per_stage // expt_tp)
        if all(
            not below < stride < above or (stride % below == 0 and above % stride == 0)
            for below, above in ((1, expt_tp), (expt_tp, expt_tp * ep), (expt_tp * ep, per_stage))
        )
    ]


@st.composite
def specs(draw: st.DrawFn, limits: Limits) -> Spec:
    """Specs that are valid by construction: modules that are placed, joined and sized within the limits."""
    num_others = draw(st.integers(limits.min_modules - 1, limits.max_modules - 1))
    names = draw(st.permutations([LANGUAGE, *NAMES[:num_others]]))
    lanes = draw(st.sampled_from(DIVIDING)) if limits.divide else (1, 2, 3, 4, 6)
    placement = draw(st.sampled_from(limits.placements))
    sizes = st.sampled_from([size for size in (1, 2, 3, 4, 6, 8, 12, 16, 18, 24) if size <= limits.max_ranks])
    together = draw(sizes)
    found = {
        name: draw(parallels(limits, together if placement == "colocated" else draw(sizes), lanes, name == LANGUAGE))
        for name in names
    }
    offsets = _offsets(draw, placement, found)
    samples = lcm(*(parallel.dp or 1 for parallel in found.values()))
    return Spec(
        batch=Batch(global_size=samples, micro_size=samples, seq_length=SEQ_LENGTH),
        modules={
            name: Module(parallel=attrs.evolve(parallel, rank_offset=offsets[name])) for name, parallel in found.items()
        },
        topology=draw(topologies(names)),
    )


def _offsets(draw: st.DrawFn, placement: str, found: dict[str, Parallel]) -> dict[str, int]:
    """The first ranks of all modules, laid out in any order so that no rank below the highest is left out."""
    names = draw(st.permutations(list(found)))
    if placement == "colocated":
        return dict.fromkeys(names, 0)
    if placement == "shared":  # language first or last
        names.remove(LANGUAGE)
        names.insert(draw(st.sampled_from([0, len(names)])), LANGUAGE)
    offsets: dict[str, int] = {}
    floor = end = 0
    for name in names:
        if placement == "disjoint" or name == LANGUAGE:
            floor = end
        offsets[name] = draw(st.integers(0 if placement == "overlapping" else floor, end))
        end = max(end, offsets[name] + _num_ranks(found[name]))
        if name == LANGUAGE:
            floor = end
    return offsets


def _num_ranks(parallel: Parallel) -> int:
    return parallel.tp * parallel.cp * (parallel.dp or 1) * parallel.pp


@st.composite
def topologies(draw: st.DrawFn, names: list[str]) -> dict[str, list[str]]:
    """A DAG in which every module comes before or after language: chains, fans, generators, edges past language."""
    line = draw(st.permutations(names))
    at = line.index(LANGUAGE)
    edges: set[tuple[str, str]] = set()
    for i, name in enumerate(line):
        if i < at:
            edges |= {(name, dst) for dst in draw(_some(line[i + 1 : at + 1]))}
        elif i > at:
            edges |= {(src, name) for src in draw(_some(line[at:i]))}
    if 0 < at < len(line) - 1 and draw(st.booleans()):
        edges.add((line[0], line[-1]))
    return {name: sorted(dst for src, dst in edges if src == name) for name in line}


def _some(choices: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(choices), min_size=1, max_size=3, unique=True)
