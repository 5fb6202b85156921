"""How tests make plans, `planned`, which compiles and proves them; and what they draw beside legal specs.

`cases` and `grids` are made of the strategies that users have (planner.testing): specs that are valid by construction,
so that a PlanError in a test is a finding. `documents` draws plain data that may be wrong in any number of ways.
"""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import strategies as st

from planner import Batch, Module, Parallel, Plan, Spec, compile_spec
from planner.base.axes import Axis
from planner.testing import assert_valid
from planner.testing.strategies import LANGUAGE, MAX_RANKS, NAMES, ORDERS, batches, parallels, sizes, specs_and_worlds


def planned(spec: Spec, world_size: int | None = None) -> Plan:
    """The plan of a spec, proven by brute force. Every plan that a test looks at comes from here."""
    return proven(compile_spec(spec, world_size=world_size))


def proven(plan: Plan) -> Plan:
    assert_valid(plan)
    return plan


def simple(micro_size: int = 12, **parallels: dict[str, Any]) -> Spec:
    """A spec with a microbatch of `micro_size` and one module per keyword, in that order."""
    return Spec(
        batch=Batch(global_size=2 * micro_size, micro_size=micro_size, seq_length=4096),
        modules={name: Module(parallel=parallel) for name, parallel in parallels.items()},
    )


# ---- legal specs


@attrs.frozen
class Case:
    """A spec that must plan, with the number of ranks to plan for: None if the spec says it."""

    spec: Spec
    world_size: int | None = None

    def plan(self) -> Plan:
        return planned(self.spec, self.world_size)


@st.composite
def cases(draw: st.DrawFn, min_modules: int = 1, max_modules: int = 6) -> Case:
    """Specs that must plan: 1 to 6 modules on at most 64 ranks, placed, joined and sized in any legal way."""
    return Case(*draw(specs_and_worlds(min_modules, max_modules)))


@st.composite
def straddling(draw: st.DrawFn) -> Parallel:
    """Expert axes that the stride of pp cuts unevenly: 3 ranks are below it, and are refactored in twos."""
    sizes = {Axis.TP: 3, Axis.PP: draw(st.integers(2, 3)), Axis.CP: draw(st.sampled_from([2, 4])), Axis.DP: 1}
    order = draw(st.sampled_from([order for order in ORDERS if order[:2] == (Axis.TP, Axis.PP)]))
    names = draw(st.permutations(["expt_tp", "ep"]))
    expert = {names[0]: 2, names[1]: draw(st.sampled_from([1, 3]))}
    return Parallel(**{str(axis): size for axis, size in sizes.items()}, order=order, **expert)


@st.composite
def grids(draw: st.DrawFn, max_ranks: int = MAX_RANKS) -> Plan:
    """The proven plan of a language module alone: one grid with any order and any expert axes."""
    aligned = sizes(max_ranks).flatmap(lambda drawn: parallels(LANGUAGE, drawn))
    parallel = draw(aligned | straddling())
    return planned(Spec(batch=draw(batches({LANGUAGE: parallel})), modules={LANGUAGE: Module(parallel=parallel)}))


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
