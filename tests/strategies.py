"""Random specs, and the one way in which tests make plans: `planned` compiles and proves.

`cases` draws specs that are valid by construction: every divisibility that DESIGN asks for is built in, not
filtered for, so that a PlanError in a test is a finding. `documents` draws plain data that may be wrong in
any number of ways.
"""

from __future__ import annotations

from itertools import permutations
from math import lcm
from typing import Any

import attrs
from hypothesis import strategies as st

from planner import Batch, Cluster, Freeze, Model, Module, Output, Parallel, Plan, Spec, compile_spec
from planner.base.axes import DENSE_AXES, Axis
from planner.verify import verify

MAX_WORLD = 64
LANGUAGE = "language"
NAMES = ("images", "audio", "video", "depth", "speech")
ORDERS = tuple(permutations(DENSE_AXES))
PLACEMENTS = ("disjoint", "colocated", "offsets")


def planned(spec: Spec, world_size: int | None = None) -> Plan:
    """The plan of a spec, proven by brute force. Every plan that a test looks at comes from here."""
    return proven(compile_spec(spec, world_size=world_size))


def proven(plan: Plan) -> Plan:
    assert verify(plan) > 0
    return plan


def simple(micro_size: int = 12, **parallels: dict[str, Any]) -> Spec:
    """A spec with a microbatch of `micro_size` and one module per keyword, in that order."""
    return Spec(
        batch=Batch(global_size=2 * micro_size, micro_size=micro_size, seq_length=4096),
        modules={name: Module(parallel=parallel) for name, parallel in parallels.items()},
    )


@attrs.frozen
class Case:
    """A spec that must plan, with the number of ranks to plan for (None: the spec says)."""

    spec: Spec
    world_size: int | None = None

    def plan(self) -> Plan:
        return planned(self.spec, self.world_size)


# ---- sizes


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


@st.composite
def factors(draw: st.DrawFn, number: int) -> dict[Axis, int]:
    """Sizes of the four axes with `number` as their product; which axis is served first varies."""
    sizes = {}
    for axis in draw(st.permutations(DENSE_AXES))[:-1]:
        sizes[axis] = draw(st.sampled_from(divisors(number)))
        number //= sizes[axis]
    return {axis: sizes.get(axis, number) for axis in DENSE_AXES}


@st.composite
def small_sizes(draw: st.DrawFn, max_ranks: int) -> dict[Axis, int]:
    """Sizes of the four axes, each up to 4, with a product of at most `max_ranks`."""
    sizes = {}
    for axis in draw(st.permutations(DENSE_AXES)):
        sizes[axis] = draw(st.integers(1, max(1, min(4, max_ranks))))
        max_ranks //= sizes[axis]
    return {axis: sizes[axis] for axis in DENSE_AXES}


@st.composite
def parallels(draw: st.DrawFn, name: str, sizes: dict[Axis, int]) -> Parallel:
    """These sizes in any order of axes; for language, with any expert axes that divide a stage."""
    expt_tp = ep = 1
    if name == LANGUAGE and draw(st.booleans()):
        per_stage = sizes[Axis.TP] * sizes[Axis.CP] * sizes[Axis.DP]
        expt_tp = draw(st.sampled_from(divisors(per_stage)))
        ep = draw(st.sampled_from(divisors(per_stage // expt_tp)))
    return Parallel(
        **{str(axis): size for axis, size in sizes.items()},
        expt_tp=expt_tp,
        ep=ep,
        order=draw(st.sampled_from(ORDERS)),
        sequence_parallel=draw(st.booleans()),
    )


@st.composite
def straddling(draw: st.DrawFn) -> Parallel:
    """Expert axes that pp's stride cuts unevenly: 3 ranks below pp, refactored two by two."""
    sizes = {Axis.TP: 3, Axis.PP: draw(st.integers(2, 3)), Axis.CP: draw(st.sampled_from([2, 4])), Axis.DP: 1}
    order = draw(st.sampled_from([order for order in ORDERS if order[:2] == (Axis.TP, Axis.PP)]))
    names = draw(st.permutations(["expt_tp", "ep"]))
    expert = {names[0]: 2, names[1]: draw(st.sampled_from([1, 3]))}
    return Parallel(**{str(axis): size for axis, size in sizes.items()}, order=order, **expert)


@st.composite
def grids(draw: st.DrawFn, max_ranks: int = MAX_WORLD) -> Plan:
    """The proven plan of a single language module: one grid, any order, any expert axes."""
    aligned = small_sizes(max_ranks).flatmap(lambda sizes: parallels(LANGUAGE, sizes))
    parallel = draw(aligned | straddling())
    return planned(Spec(batch=_batch(draw, {LANGUAGE: parallel}), modules={LANGUAGE: Module(parallel=parallel)}))


# ---- modules


@st.composite
def layouts(draw: st.DrawFn, names: list[str]) -> tuple[str | None, dict[str, Parallel]]:
    """A placement and the layout of every module; no rank below the highest is left out."""
    placement = draw(st.sampled_from(PLACEMENTS))
    if placement == "colocated":
        number = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 18, 24]))
        return placement, {name: draw(parallels(name, draw(factors(number)))) for name in names}
    found: dict[str, Parallel] = {}
    budget = MAX_WORLD
    for i, name in enumerate(names):
        left = len(names) - i - 1  # each of them still needs a rank
        found[name] = draw(parallels(name, draw(small_sizes(min(24, budget - left)))))
        budget -= _num_ranks(found[name])
    if placement == "disjoint":
        return draw(st.sampled_from([None, "disjoint"])), found
    return None, _with_offsets(draw, found)


def _with_offsets(draw: st.DrawFn, layout: dict[str, Parallel]) -> dict[str, Parallel]:
    """Explicit offsets: each module starts anywhere up to the end of those placed before it."""
    end, placed = 0, {}
    for name in draw(st.permutations(list(layout))):
        offset = draw(st.integers(0, end) | st.sampled_from([0, end]))
        placed[name] = attrs.evolve(layout[name], rank_offset=offset)
        end = max(end, offset + _num_ranks(layout[name]))
    return {name: placed[name] for name in layout}


def _num_ranks(parallel: Parallel) -> int:
    return parallel.tp * parallel.cp * (parallel.dp or 1) * parallel.pp


@st.composite
def models(draw: st.DrawFn, name: str, parallel: Parallel) -> tuple[Model | None, tuple[int, ...] | None]:
    """No model, or one whose sizes the layout divides; and the layers of its stages, even or not."""
    per_stage = draw(st.lists(st.integers(1, 3), min_size=parallel.pp, max_size=parallel.pp))
    stages = draw(st.sampled_from([None, tuple(per_stage)]))
    if not draw(st.booleans()):
        return None, stages
    heads = 2 * parallel.tp * parallel.expt_tp
    sizes: dict[str, Any] = {
        "num_layers": sum(per_stage) if stages else 2 * parallel.pp,
        "hidden_size": 16 * heads,
        "num_attention_heads": heads,
    }
    if name == LANGUAGE:
        experts = 2 * parallel.ep if parallel.ep > 1 else None
        return Model(family="gpt", vocab_size=512, max_positions=2**16, num_moe_experts=experts, **sizes), stages
    return Model(family="audio", num_mel_bins=80, max_positions=64, **sizes), stages


@st.composite
def modules(draw: st.DrawFn, name: str, parallel: Parallel, token: int) -> Module:
    model, stages = draw(models(name, parallel))
    tokens = draw(st.none() | st.integers(1, 4))
    dims = draw(st.sampled_from([(2, None), (3, None), (3, 0), (3, 1)]))
    frozen = draw(st.booleans())
    return Module(
        parallel=parallel,
        model=model,
        output=Output(
            tensor_dims=dims[0],
            batch_dim=dims[1],
            tokens_per_sample=tokens and tokens * 2 * parallel.cp,
        ),
        special_token_id=None if name == LANGUAGE else draw(st.sampled_from([None, token])),
        freeze=Freeze(encoder=frozen, projection=frozen if name == LANGUAGE else draw(st.booleans())),
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
        stages=stages,
    )


# ---- topology


@st.composite
def topologies(draw: st.DrawFn, names: list[str]) -> dict[str, tuple[str, ...]]:
    """A DAG in which every module is before or after language: chains, fans, generators, skips past language.

    Edges that need not be written (a module that only feeds language and is not mentioned) sometimes are not.
    """
    line = draw(st.permutations(names))
    at = line.index(LANGUAGE)
    edges: set[tuple[str, str]] = set()
    for i in range(at):  # feeds something between itself and language, language included
        edges |= {(line[i], dst) for dst in draw(_some(line[i + 1 : at + 1]))}
    for i in range(at + 1, len(line)):  # is fed by language, or by something after it
        edges |= {(src, line[i]) for src in draw(_some(line[at:i]))}
    skips = [(src, dst) for src in line[:at] for dst in line[at + 1 :]]
    edges |= set(draw(_some(skips, min_size=0))) if skips else set()
    written = {name: draw(st.permutations(sorted(d for s, d in edges if s == name))) for name in line}
    mentioned = {dst for _, dst in edges}
    implied = [name for name in line if written[name] == [LANGUAGE] and name not in mentioned]
    left_out = set(draw(_some(implied, min_size=0))) if implied else set()
    return {name: tuple(found) for name, found in written.items() if found and name not in left_out}


def _some(choices: list[Any], min_size: int = 1) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(choices), min_size=min_size, max_size=3, unique=True)


# ---- whole specs


def _batch(draw: st.DrawFn, layout: dict[str, Parallel]) -> Batch:
    """Sizes that every module's lanes, and every cut of language's sequence, divide."""
    language = layout[LANGUAGE]
    micro_size = lcm(*(parallel.dp or 1 for parallel in layout.values())) * draw(st.integers(1, 3))
    return Batch(
        global_size=micro_size * draw(st.integers(1, 4)),
        micro_size=micro_size,
        seq_length=2 * language.cp * language.tp * 128,  # and longer than all encoders' tokens together
    )


@st.composite
def cases(draw: st.DrawFn, min_modules: int = 1, max_modules: int = 6) -> Case:
    """Specs that must plan: 1 to 6 modules on at most 64 ranks, placed, joined and sized in any legal way."""
    others = draw(st.integers(min_modules - 1, max_modules - 1))
    names = draw(st.permutations([LANGUAGE, *NAMES[:others]]))
    placement, layout = draw(layouts(names))
    spec = Spec(
        batch=_batch(draw, layout),
        modules={name: draw(modules(name, layout[name], token)) for token, name in enumerate(names)},
        topology=draw(topologies(names)),
        placement=placement,
    )
    return _among_machines(draw, spec)


def _world(spec: Spec) -> int:
    spans = [(module.parallel.rank_offset or 0, _num_ranks(module.parallel)) for module in spec.modules.values()]
    if _has_offsets(spec) or spec.placement == "colocated":
        return max(offset + size for offset, size in spans)
    return sum(size for _, size in spans)


def _among_machines(draw: st.DrawFn, spec: Spec) -> Case:
    """Nobody says how many ranks there are, or the cluster or the caller does: then dp may be open."""
    world = _world(spec)
    said_by = draw(st.sampled_from(["nobody", "node", "cluster", "caller"]))
    if said_by == "nobody":
        return Case(spec)
    if said_by == "node":
        return Case(attrs.evolve(spec, cluster=Cluster(gpus_per_node=draw(st.integers(1, 16)))))
    opened = _open_lanes(draw, spec, world)
    if said_by == "cluster":
        per_node = draw(st.sampled_from(divisors(world)))
        return Case(attrs.evolve(opened, cluster=Cluster(nodes=world // per_node, gpus_per_node=per_node)))
    cluster = Cluster(nodes=draw(st.integers(1, 3)), gpus_per_node=draw(st.integers(1, 16)))
    return Case(attrs.evolve(opened, cluster=draw(st.sampled_from([None, cluster]))), world)


def _open_lanes(draw: st.DrawFn, spec: Spec, world: int) -> Spec:
    """Leave dp out where the known world gives the same dp again."""
    names = [name for name in spec.modules if _is_implied(spec, name, world)]
    limit = len(names) if spec.placement == "colocated" or _has_offsets(spec) else 1
    chosen = draw(st.lists(st.sampled_from(names), max_size=limit, unique=True)) if names else []
    return attrs.evolve(
        spec,
        modules={
            name: attrs.evolve(module, parallel=attrs.evolve(module.parallel, dp=None)) if name in chosen else module
            for name, module in spec.modules.items()
        },
    )


def _has_offsets(spec: Spec) -> bool:
    return any(module.parallel.rank_offset is not None for module in spec.modules.values())


def _is_implied(spec: Spec, name: str, world: int) -> bool:
    """Whether all ranks from a module's offset to the next one, or to the end of the world, are its own."""
    if not _has_offsets(spec):
        return True
    start, size = spec.modules[name].parallel.rank_offset, _num_ranks(spec.modules[name].parallel)
    later = [module.parallel.rank_offset for module in spec.modules.values()]
    return start + size == min([offset for offset in later if offset > start], default=world)


# ---- documents that may be wrong

_SIZES = st.sampled_from([1, 1, 1, 1, 2, 2, 3, 4])
_ODDITIES = st.sampled_from(
    [None, 0, -1, 2.5, True, "two", "", [], {}, [1], {"tp": 1}, 2**24, 2**70, "tp-cp", float("inf")]
)
_KEYS = st.sampled_from(["tp", "dp", "encoder", "schema", "batch", "Language", "images ", "1", "paralel"])


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A spec as plain data: well-formed, with values that often contradict each other."""
    names = draw(st.lists(st.sampled_from(NAMES[:3]), max_size=3, unique=True)) + [LANGUAGE] * draw(
        st.sampled_from([1, 1, 1, 1, 1, 1, 0])
    )
    document: dict[str, Any] = {
        "batch": {
            "global_size": draw(st.sampled_from([12, 24, 48, 7])),
            "micro_size": draw(st.sampled_from([12, 12, 24, 4, 6])),
            "seq_length": draw(st.sampled_from([64, 4096, 30])),
        },
        "modules": {name: draw(_module_documents(name)) for name in names},
    }
    known = [*names, "nobody"]
    rows = st.lists(st.sampled_from(known), max_size=2)
    optional = {
        "topology": st.dictionaries(st.sampled_from(known), rows, max_size=2),
        "placement": st.sampled_from(["disjoint", "colocated"]),
        "cluster": st.fixed_dictionaries({"gpus_per_node": _SIZES}, optional={"nodes": st.integers(1, 9)}),
    }
    for key, values in optional.items():
        if draw(st.integers(0, 3)) == 0:
            document[key] = draw(values)
    return document


@st.composite
def _module_documents(draw: st.DrawFn, name: str) -> dict[str, Any]:
    rare = st.sampled_from([1, 1, 1, 1, 1, 2])
    axes = {"tp": _SIZES, "cp": rare, "dp": _SIZES, "pp": _SIZES}
    experts = {"ep": rare, "expt_tp": rare} if name == LANGUAGE or draw(rare) == 2 else {}
    other = {
        "rank_offset": st.integers(0, 8),
        "order": st.sampled_from(["-".join(order) for order in ORDERS]),
        "sequence_parallel": st.booleans(),
    }
    chosen = {key: draw(values) for key, values in (axes | experts).items() if draw(st.booleans())}
    chosen |= {key: draw(values) for key, values in other.items() if draw(st.integers(0, 4)) == 0}
    return {"parallel": chosen} if chosen or draw(st.booleans()) else {}


@st.composite
def odd_documents(draw: st.DrawFn) -> Any:
    """A document with up to three values, or keys, replaced by something that no spec has."""
    document = draw(documents())
    for _ in range(draw(st.integers(1, 3))):
        parent = document
        while True:
            if not isinstance(parent, dict) or not parent:
                break
            key = draw(st.sampled_from(list(parent)))
            if isinstance(parent[key], dict) and parent[key] and draw(st.booleans()):
                parent = parent[key]
                continue
            action = draw(st.sampled_from(["replace", "replace", "remove", "rename"]))
            value = parent.pop(key)
            if action == "replace":
                parent[key] = draw(_ODDITIES)
            elif action == "rename":
                parent[draw(_KEYS)] = value
            break
    return document
