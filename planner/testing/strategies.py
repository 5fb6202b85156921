"""Strategies of hypothesis that draw legal specs, and the plans that they compile to.

Every rule that joins several sizes is built in rather than filtered for: heads are multiples of tp, micro_size is a
multiple of every dp, ranks leave no gap. So what is drawn always compiles, nothing is drawn in vain, and examples
shrink well: towards one module on one rank.

`specs` and `plans` are for everybody, the parts below them for tests that need something in between.
"""

from __future__ import annotations

from itertools import permutations
from math import lcm
from typing import Any

import attrs

from ..base.axes import DENSE_AXES, Axis
from ..passes.compile import compile_spec
from ..plan import Plan
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY, Batch, Cluster, Freeze, Model, Module, Output, Parallel
from ..spec.spec import Spec

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'planner.testing draws specs and plans with hypothesis: pip install "mimo-planner[testing]"', name=error.name
    ) from error

LANGUAGE = MIMO_LANGUAGE_MODULE_KEY
NAMES = ("images", "audio", "video", "depth", "speech")  # of the modules beside language
MAX_RANKS = 64
ORDERS = tuple(permutations(DENSE_AXES))
PLACEMENTS = ("disjoint", "colocated", "offsets")

_COLOCATED_WORLDS = (1, 2, 3, 4, 6, 8, 12, 16, 18, 24)
_WORLD_IS_SAID_BY = ("nobody", "node", "cluster", "caller")


@st.composite
def specs(draw: st.DrawFn, min_modules: int = 1, max_modules: int = 6, max_ranks: int = MAX_RANKS) -> Spec:
    """Any legal spec of a few modules on a few ranks.

    Drawn are the sizes and orders of all axes (with expert axes for language), disjoint and colocated placements and
    explicit rank offsets, topologies of encoders and generators, models or none, uneven stages, frozen parts, and
    machines. At times the spec leaves out what follows from the rest, such as dp.

    Args:
        min_modules: the fewest modules, language included.
        max_modules: the most modules: up to 6, and never more than `max_ranks`.
        max_ranks: the largest world.

    Raises:
        ValueError: unless 1 <= min_modules <= max_modules <= 6 and min_modules <= max_ranks.
    """
    spec, _ = draw(specs_and_worlds(min_modules, max_modules, max_ranks, said_by=_WORLD_IS_SAID_BY[:-1]))
    return spec


@st.composite
def plans(draw: st.DrawFn, min_modules: int = 1, max_modules: int = 6, max_ranks: int = MAX_RANKS) -> Plan:
    """The plan of any legal spec of a few modules on a few ranks. Arguments and errors are those of `specs`."""
    return compile_spec(draw(specs(min_modules, max_modules, max_ranks)))


@st.composite
def specs_and_worlds(
    draw: st.DrawFn,
    min_modules: int = 1,
    max_modules: int = 6,
    max_ranks: int = MAX_RANKS,
    said_by: tuple[str, ...] = _WORLD_IS_SAID_BY,
) -> tuple[Spec, int | None]:
    """A legal spec, and the number of ranks to give `compile_spec` with it: None if the spec says enough.

    Args:
        min_modules, max_modules, max_ranks: as for `specs`.
        said_by: who may settle the number of ranks: nobody but the modules, the size of a node (which settles nothing
            more), the cluster, or the caller of `compile_spec`.
    """
    if not 1 <= min_modules <= min(max_modules, max_ranks) or max_modules > len(NAMES) + 1:
        raise ValueError(
            f"1 <= min_modules <= max_modules <= {len(NAMES) + 1} and min_modules <= max_ranks, "
            f"got {min_modules}, {max_modules} and {max_ranks}"
        )
    others = draw(st.integers(min_modules - 1, min(max_modules, max_ranks) - 1))
    names = draw(st.permutations([LANGUAGE, *NAMES[:others]]))
    placement, layout = draw(layouts(names, max_ranks))
    spec = Spec(
        batch=draw(batches(layout)),
        modules={name: draw(modules(name, layout[name], token)) for token, name in enumerate(names)},
        topology=draw(topologies(names)),
        placement=placement,
    )
    return _among_machines(draw, spec, draw(st.sampled_from(said_by)))


# ---- sizes


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


@st.composite
def factors(draw: st.DrawFn, number: int) -> dict[Axis, int]:
    """Sizes of the four dense axes whose product is `number`. Which axis is served first varies."""
    found = {}
    for axis in draw(st.permutations(DENSE_AXES))[:-1]:
        found[axis] = draw(st.sampled_from(divisors(number)))
        number //= found[axis]
    return {axis: found.get(axis, number) for axis in DENSE_AXES}


@st.composite
def sizes(draw: st.DrawFn, max_ranks: int) -> dict[Axis, int]:
    """Sizes of the four dense axes, each of them up to 4, whose product is at most `max_ranks`."""
    found = {}
    for axis in draw(st.permutations(DENSE_AXES)):
        found[axis] = draw(st.integers(1, max(1, min(4, max_ranks))))
        max_ranks //= found[axis]
    return {axis: found[axis] for axis in DENSE_AXES}


@st.composite
def parallels(draw: st.DrawFn, name: str, sizes: dict[Axis, int]) -> Parallel:
    """These sizes in any order of the axes; for language, with any expert axes that divide a stage."""
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
def batches(draw: st.DrawFn, layout: dict[str, Parallel]) -> Batch:
    """Batch sizes that the lanes of every module divide, and a sequence that all cuts of language divide."""
    language = layout[LANGUAGE]
    micro_size = lcm(*(parallel.dp or 1 for parallel in layout.values())) * draw(st.integers(1, 3))
    return Batch(
        global_size=micro_size * draw(st.integers(1, 4)),
        micro_size=micro_size,
        seq_length=2 * language.cp * language.tp * 128,  # longer than the tokens of all encoders together
    )


# ---- modules


@st.composite
def layouts(draw: st.DrawFn, names: list[str], max_ranks: int = MAX_RANKS) -> tuple[str | None, dict[str, Parallel]]:
    """A placement and the layout of every module. No rank below the highest is left without a module."""
    placement = draw(st.sampled_from(PLACEMENTS))
    if placement == "colocated":
        number = draw(st.sampled_from([world for world in _COLOCATED_WORLDS if world <= max_ranks]))
        return placement, {name: draw(parallels(name, draw(factors(number)))) for name in names}
    found: dict[str, Parallel] = {}
    budget = max_ranks
    for i, name in enumerate(names):
        left = len(names) - i - 1  # each of them still needs a rank
        found[name] = draw(parallels(name, draw(sizes(min(24, budget - left)))))
        budget -= _num_ranks(found[name])
    if placement == "disjoint":
        return draw(st.sampled_from([None, "disjoint"])), found
    return None, _with_offsets(draw, found)


def _with_offsets(draw: st.DrawFn, layout: dict[str, Parallel]) -> dict[str, Parallel]:
    """The layout with rank offsets: each module starts at any rank up to the end of those placed before it."""
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
    """A model whose sizes the layout divides, or none; and the layers of each stage if they are uneven."""
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
    """A module of this layout, whose output may be marked by `token`."""
    model, stages = draw(models(name, parallel))
    tokens = draw(st.none() | st.integers(1, 4))
    dims = draw(st.sampled_from([(None, None), (None, 0), (None, 1), (2, None), (3, None), (3, 0), (3, 1)]))
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
    """A DAG in which every module comes before or after language: chains, fans, generators, edges past language.

    An edge that need not be written, because its module is not mentioned and so feeds language, sometimes is not.
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


# ---- machines


def _among_machines(draw: st.DrawFn, spec: Spec, said_by: str) -> tuple[Spec, int | None]:
    """The spec with machines, and the number of ranks if the caller is to say it. If it is known, dp may be open."""
    if said_by == "nobody":
        return spec, None
    if said_by == "node":
        return attrs.evolve(spec, cluster=Cluster(gpus_per_node=draw(st.integers(1, 16)))), None
    layout = {name: module.parallel for name, module in spec.modules.items() if module.parallel}
    world = _world(spec, layout)
    opened = _open_lanes(draw, spec, layout, world)
    if said_by == "cluster":
        per_node = draw(st.sampled_from(divisors(world)))
        return attrs.evolve(opened, cluster=Cluster(nodes=world // per_node, gpus_per_node=per_node)), None
    cluster = Cluster(nodes=draw(st.integers(1, 3)), gpus_per_node=draw(st.integers(1, 16)))
    return attrs.evolve(opened, cluster=draw(st.sampled_from([None, cluster]))), world


def _world(spec: Spec, layout: dict[str, Parallel]) -> int:
    ends = [(parallel.rank_offset or 0) + _num_ranks(parallel) for parallel in layout.values()]
    return max(ends) if _has_offsets(layout) or spec.placement == "colocated" else sum(ends)


def _open_lanes(draw: st.DrawFn, spec: Spec, layout: dict[str, Parallel], world: int) -> Spec:
    """Leave dp out of modules for which the known world gives the same dp again."""
    names = [name for name in layout if _is_implied(layout, name, world)]
    limit = len(names) if spec.placement == "colocated" or _has_offsets(layout) else 1
    chosen = draw(st.lists(st.sampled_from(names), max_size=limit, unique=True)) if names else []
    opened = {name: attrs.evolve(layout[name], dp=None) if name in chosen else layout[name] for name in layout}
    modules = {name: attrs.evolve(module, parallel=opened[name]) for name, module in spec.modules.items()}
    return attrs.evolve(spec, modules=modules)


def _has_offsets(layout: dict[str, Parallel]) -> bool:
    return any(parallel.rank_offset is not None for parallel in layout.values())


def _is_implied(layout: dict[str, Parallel], name: str, world: int) -> bool:
    """Whether all ranks from a module's offset to the next one, or to the end of the world, are its own."""
    if not _has_offsets(layout):
        return True
    start = layout[name].rank_offset or 0
    later = [offset for parallel in layout.values() if (offset := parallel.rank_offset or 0) > start]
    return start + _num_ranks(layout[name]) == min(later, default=world)
