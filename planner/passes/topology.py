"""Pass: the edges of the DAG from what was written; every module is before language, after it, or language itself.

Edges are ordered by the plan order of their source, then of their destination, whatever order the topology
was written in: the order is part of the plan's one creation order.
"""

from __future__ import annotations

from ..base import codes
from ..base.errors import Faults
from ..layout.dag import Edges, find_cycle, reached_from
from ..spec.fields import suggest
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY
from ..spec.spec import Spec

_LANGUAGE_MODELS = ("lang", "llm", "lm", "text", "decoder", "gpt", "backbone")  # how such modules are called elsewhere


def find_edges(spec: Spec, faults: Faults) -> Edges:
    """The edges of the spec's DAG, in topology order. Every fault of the topology is added to `faults`."""
    if MIMO_LANGUAGE_MODULE_KEY not in spec.modules:
        _no_language(spec, faults)
        return ()
    written = _written_edges(spec, faults)
    mentioned = {name for edge in written for name in edge} | set(spec.topology)
    implied = [
        (name, MIMO_LANGUAGE_MODULE_KEY)
        for name in spec.modules
        if name not in mentioned and name != MIMO_LANGUAGE_MODULE_KEY
    ]
    place = {name: i for i, name in enumerate(spec.modules)}
    edges = tuple(sorted({*written, *implied}, key=lambda edge: (place[edge[0]], place[edge[1]])))
    if cycle := find_cycle(spec.modules, edges):
        rule = f"the modules form no cycle; found {' -> '.join(cycle)}"
        at = next((name for name in cycle if name in spec.topology), cycle[0])
        faults.add(codes.CYCLE, ("topology", at), rule, "remove one of these edges")
    elif not faults.has(codes.UNKNOWN_MODULE):  # whose edges would have reached something
        _check_reach(spec, edges, faults)
    return edges


def _no_language(spec: Spec, faults: Faults) -> None:
    """No module has the name of the language model's. Whoever wrote one of the usual names meant it."""
    named = [name for name in spec.modules if name.lower().startswith(_LANGUAGE_MODELS) and "encoder" not in name]
    found = named or [name for name, module in spec.modules.items() if module.model and module.model.family == "gpt"]
    known = ", ".join(spec.modules) or "no module"
    rule = f"one module must be named {MIMO_LANGUAGE_MODULE_KEY}; found {known}"
    if len(found) == 1:
        remedy = f"rename `{found[0]}` to `{MIMO_LANGUAGE_MODULE_KEY}`"
        faults.add(codes.NO_LANGUAGE, ("modules", found[0]), rule, remedy)
    else:
        faults.add(
            codes.NO_LANGUAGE, ("modules",), rule, f"name the language model's module `{MIMO_LANGUAGE_MODULE_KEY}`"
        )


def _written_edges(spec: Spec, faults: Faults) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    names = list(spec.modules)
    known = set(names)
    for src, destinations in spec.topology.items():
        if src not in known:
            _unknown(src, ("topology", src), names, faults)
        for i, dst in enumerate(destinations):
            if dst not in known:
                _unknown(dst, ("topology", src, i), names, faults)
            elif (src, dst) in found:
                rule = f"the edge {src} -> {dst} is written twice"
                faults.add(codes.DUPLICATE_EDGE, ("topology", src, i), rule, f"remove the second `{dst}`")
            elif src in known:
                found.add((src, dst))
    return found


def _unknown(name: str, path: tuple[str | int, ...], names: list[str], faults: Faults) -> None:
    rule = f"{name} must be one of the modules {', '.join(names)}"
    close = suggest(name, names, faults.suggestions)
    remedy = f"{close}{'otherwise ' if close else ''}add {name} under `modules`"
    faults.add(codes.UNKNOWN_MODULE, path, rule, remedy)


def _check_reach(spec: Spec, edges: Edges, faults: Faults) -> None:
    """Check that every module is before language, after it, or language itself."""
    before = reached_from(MIMO_LANGUAGE_MODULE_KEY, tuple((dst, src) for src, dst in edges))
    after = reached_from(MIMO_LANGUAGE_MODULE_KEY, edges)
    for name in spec.modules:
        if name not in before and name not in after:
            outgoing = [dst for src, dst in edges if src == name]
            does = f"feeds only {', '.join(outgoing)}" if outgoing else "feeds nothing"
            rule = f"{name} is before or after language; it {does} and language does not reach it"
            at = ("topology", name) if name in spec.topology else ("modules", name)
            faults.add(codes.UNREACHED, at, rule, f"add `{name}: [language]` to topology")
