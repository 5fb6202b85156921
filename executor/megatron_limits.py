"""What the installed megatron-core cannot run, refused by name before any collective.

The planner refuses only what is meaningless; a plan may be valid and still beyond megatron-core 0.19, whose answer
is sometimes an assertion deep in a constructor and sometimes a wrong gradient. Each rule here names its cause:
`megatron-core` for the library itself, `model` for the ready models and the one forward pass of this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import attrs

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, ModulePlan, Plan

from .errors import UnsupportedError
from .layers import Layers, choose_layers

KNOWN_VERSION = "0.19"
KNOWN_RANGE = f">={KNOWN_VERSION},<0.20"


@attrs.frozen
class Limit:
    """One reason why a plan cannot run: who cannot (`part`), where, the rule, and what to change."""

    part: str
    where: str
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.rule} [{self.part}]\n    fix: {self.remedy}"


def check_version(installed: str | None = None) -> None:
    """Raise UnsupportedError unless megatron-core is a version whose behaviour this package was checked against."""
    found = installed or version("megatron-core")
    if found.split(".")[:2] != KNOWN_VERSION.split("."):
        raise UnsupportedError(
            f"megatron-core {found} is not known here; this executor was checked against {KNOWN_VERSION}: "
            f"pip install 'megatron-core{KNOWN_RANGE}'"
        )


def check_limits(plan: Plan) -> None:
    """Raise UnsupportedError with every limit that the plan is beyond."""
    check_version()
    found = list(limits_of(plan))
    if found:
        lines = "\n".join(map(str, found))
        raise UnsupportedError(f"megatron-core {version('megatron-core')} cannot run this plan:\n{lines}")


def limits_of(plan: Plan) -> Iterator[Limit]:
    """Every limit that the plan is beyond, in the order of its modules and edges."""
    for module in plan.modules:
        yield from _axes(module)
        yield from _stages(module)
        yield from _role(plan, module)
    yield from _shared_ranks(plan)


def _axes(module: ModulePlan) -> Iterator[Limit]:
    where, size = f"modules.{module.name}", module.grid.size_of
    if size(Axis.CP) > 1:
        yield from _context(where, module, size(Axis.CP))
    groups = module.model.num_query_groups if module.model else None
    if groups is not None and groups < size(Axis.TP):
        rule = f"num_query_groups >= tp, got {groups} < {size(Axis.TP)}"
        yield Limit("model", where, rule, "lower tp")
    if module.sequence_parallel and not module.is_language and size(Axis.TP) > 1:
        rule = "sequence_parallel is for language: an encoder's class token leaves its sequence indivisible"
        yield Limit("model", where, rule, "remove sequence_parallel from the encoder")


def _context(where: str, module: ModulePlan, cp: int) -> Iterator[Limit]:
    if not module.is_language:
        rule = f"cp = 1, got {cp}: the encoders do not divide their sequences"
        yield Limit("model", where, rule, "use cp: 1, or more tp")
    elif choose_layers() is Layers.LOCAL:
        rule = f"cp = 1 with local attention, got {cp}: context parallelism needs Transformer Engine's, on a GPU"
        yield Limit("model", where, rule, "use cp: 1, or a GPU with transformer-engine installed")


def _stages(module: ModulePlan) -> Iterator[Limit]:
    middle = set((module.stages or ())[1:-1])
    if len(middle) > 1:
        rule = f"all stages but the first and the last hold equally many layers, got {list(module.stages or ())}"
        yield Limit("megatron-core", f"modules.{module.name}.stages", rule, "even out the middle stages")


def _role(plan: Plan, module: ModulePlan) -> Iterator[Limit]:
    if module.is_language:
        return
    where = f"modules.{module.name}"
    outgoing = [dst for src, dst in plan.edges if src == module.name]
    if not outgoing:
        rule = f"MimoModel ends with language; {module.name} comes after it"
        yield Limit("megatron-core", where, rule, "leave the module out")
    elif outgoing != ["language"]:
        rule = f"ready encoders feed language, and take no other module's output; {module.name} feeds {outgoing}"
        yield Limit("model", where, rule, "let the module feed language only")
    if module.special_token_id is None:
        rule = "MimoModel places a module's output at its special_token_id; there is none"
        yield Limit("megatron-core", where, rule, "add special_token_id")
    if module.output.tensor_dims != 2:
        rule = f"MimoModel's submodules hand on (tokens, hidden), so tensor_dims = 2, got {module.output.tensor_dims}"
        yield Limit("megatron-core", f"{where}.output", rule, "write `output: {tensor_dims: 2}`")


def _shared_ranks(plan: Plan) -> Iterator[Limit]:
    """One forward pass per rank: it runs the rank's encoders, then its language stage.

    So an encoder that shares ranks with language runs inside language's first stage, and encoders that share ranks
    apart from language must be at the same place of the pipeline.
    """
    language = plan.module(MIMO_LANGUAGE_MODULE_KEY)
    inside = [module for module in _encoders(plan) if _overlap(module, language)]
    for module in inside:
        where = f"modules.{module.name}"
        if module.num_stages > 1:
            rule = f"an encoder on ranks of language has pp = 1, got {module.num_stages}: it runs inside one stage"
            yield Limit("model", where, rule, "use pp: 1, or place the modules apart")
        later = [rank for rank in _overlap(module, language) if language.grid.coord(rank, Axis.PP) > 0]
        if later:
            rule = f"an encoder shares ranks with language's first stage only; rank {later[0]} is of a later one"
            yield Limit("model", where, rule, "use pp: 1 for language, or other ranks for the encoder")
    for place, one in enumerate(_encoders(plan)):
        for other in _encoders(plan)[place + 1 :]:
            if not _overlap(one, other):
                continue
            where = f"modules.{other.name}"
            if (one in inside) != (other in inside):
                rule = f"of {one.name} and {other.name}, which share ranks, both or neither share ranks with language"
                yield Limit("model", where, rule, "place them apart")
            elif one.grid != other.grid and max(one.num_stages, other.num_stages) > 1:
                rule = f"encoders that share ranks have pp = 1 or the same grid; {one.grid} and {other.grid}"
                yield Limit("model", where, rule, "give them pp: 1 or equal axes, or place them apart")


def _encoders(plan: Plan) -> list[ModulePlan]:
    return [module for module in plan.modules if not module.is_language]


def _overlap(one: ModulePlan, other: ModulePlan) -> range:
    """The ranks of both."""
    return range(max(one.grid.rank_offset, other.grid.rank_offset), min(one.grid.end, other.grid.end))
