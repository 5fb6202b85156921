"""What follows from one forward pass per rank, which runs the rank's encoders and then its language stage.

An encoder that shares ranks with language runs inside language's first stage. Encoders that share ranks with one
another, but not with language, must be at the same position of the pipeline. Edges inside a pass must not leave it.
"""

from __future__ import annotations

from itertools import combinations

from ..base import codes
from ..base.axes import Axis
from ..base.errors import Path
from ..layout.ir import ModulePlan
from ..plan import Plan
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY
from .rule import Reasons, encoders_of


def pass_limits(plan: Plan) -> Reasons:
    """The reasons why one forward pass per rank cannot run modules that share ranks."""
    language = plan.module(MIMO_LANGUAGE_MODULE_KEY)
    inside = [module.name for module in encoders_of(plan) if module.grid.overlaps(language.grid)]
    for name in inside:
        yield from _inside_language(plan.module(name), language)
    for one, other in combinations(encoders_of(plan), 2):
        if one.grid.overlaps(other.grid):
            yield from _beside(one, other, is_inside=[module.name in inside for module in (one, other)])
    yield from _edges(plan, language)


def _inside_language(module: ModulePlan, language: ModulePlan) -> Reasons:
    path: Path = ("modules", module.name, "parallel")
    if module.num_stages > 1:
        rule = f"an encoder on ranks of language has pp = 1, got {module.num_stages}: it runs inside one stage"
        yield codes.INSIDE_LANGUAGE, (*path, "pp"), rule, "use pp: 1, or place the modules apart"
    shared = (rank for rank in module.ranks if rank in language.grid)
    later = next((rank for rank in shared if language.grid.coord(rank, Axis.PP) > 0), None)
    if later is not None:
        rule = f"an encoder shares ranks with language's first stage only; rank {later} is of a later one"
        yield codes.INSIDE_LANGUAGE, path, rule, "use pp: 1 for language, or other ranks for the encoder"


def _beside(one: ModulePlan, other: ModulePlan, is_inside: list[bool]) -> Reasons:
    path: Path = ("modules", other.name, "parallel")
    if len(set(is_inside)) > 1:
        rule = f"of {one.name} and {other.name}, which share ranks, both or neither share ranks with language"
        yield codes.SHARED_RANKS, path, rule, "place them apart"
    elif one.grid != other.grid and max(one.num_stages, other.num_stages) > 1:
        rule = f"encoders that share ranks have pp = 1 or the same grid; got {one.grid} and {other.grid}"
        yield codes.SHARED_RANKS, path, rule, "give them pp: 1 or equal axes, or place them apart"


def _edges(plan: Plan, language: ModulePlan) -> Reasons:
    """Edges between encoders that share ranks, and paths of edges that leave shared ranks and come back to them."""
    for src, dst in plan.pipeline.shared:
        if MIMO_LANGUAGE_MODULE_KEY in {src, dst}:
            continue
        one, other, path = plan.module(src), plan.module(dst), ("topology", src)
        if one.ranks != other.ranks or max(one.num_stages, other.num_stages) > 1:
            rule = f"{src} feeds {dst} on ranks of its own, so both have the same ranks and pp = 1"
            yield codes.EDGE_INSIDE, path, rule, "give them equal ranks, or place them apart"
        outgoing = [to for of, to in plan.edges if of == src]
        if len(outgoing) > 1 and not one.grid.overlaps(language.grid):
            rule = (
                f"{src} feeds {dst} inside one forward pass, so it feeds nothing else, because each output of the pass "
                f"has a backward pass of its own; it feeds {outgoing}"
            )
            yield codes.EDGE_INSIDE, path, rule, f"place {src} and {dst} apart"
    if cycle := plan.pipeline.cycle:
        rule = (
            "modules that share ranks run in one pass, which cannot wait for what comes of it; "
            f"found {' -> '.join(cycle)}"
        )
        yield codes.PASS_CYCLE, ("topology",), rule, "place the modules of this path apart"
