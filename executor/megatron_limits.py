"""What the installed megatron-core cannot run, refused by name before any collective.

The planner refuses only what is meaningless; a plan may be valid and still beyond megatron-core 0.19, whose answer
is sometimes an assertion deep in a constructor and sometimes a wrong gradient. Each rule here names its cause:
`megatron-core` for the library itself, `bridge` for its BridgeCommunicator and ColocatedBridgeCommunicator, `model`
for the model builder of this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import attrs

from planner import Axis, ModuleLayout, ModulePlan, Plan

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
    yield from _layout(plan)
    for module in plan.modules:
        yield from _axes(plan, module)
        yield from _stages(module)
        yield from _role(plan, module)
    yield from _edges(plan)
    yield from _shared_ranks(plan)


def _layout(plan: Plan) -> Iterator[Limit]:
    if plan.layout is ModuleLayout.MIXED:
        rule = "modules share some ranks with language and not others; a rank's forward returns one of its modules only"
        yield Limit("megatron-core", "placement", rule, "put every module on all ranks, or none on language's")


def _axes(plan: Plan, module: ModulePlan) -> Iterator[Limit]:
    where, size = f"modules.{module.name}", module.grid.size_of
    if size(Axis.CP) > 1:
        yield from _context(where, module, size(Axis.CP))
    if plan.layout is ModuleLayout.COLOCATED and module.num_stages > 1:
        rule = f"pp = 1 where modules share all ranks, got {module.num_stages}: every stage would be first and last"
        yield Limit("megatron-core", where, rule, "use pp: 1, or place the modules apart")
    groups = module.model.num_query_groups if module.model else None
    if groups is not None and groups < size(Axis.TP):
        rule = f"num_query_groups >= tp, got {groups} < {size(Axis.TP)}"
        yield Limit("model", where, rule, "lower tp")
    if module.sequence_parallel and not module.is_language and size(Axis.TP) > 1:
        rule = "sequence_parallel is for language: an encoder's class token leaves its sequence indivisible"
        yield Limit("model", where, rule, "remove sequence_parallel from the encoder")


def _context(where: str, module: ModulePlan, cp: int) -> Iterator[Limit]:
    yield Limit("bridge", where, f"cp = 1, got {cp}: the bridges refuse context parallelism", "use cp: 1")
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
    if len(outgoing) > 1:
        rule = f"one outgoing edge, got {len(outgoing)}: only the last edge's gradient would be kept"
        yield Limit("bridge", where, rule, "let the module feed language only")
    elif outgoing != ["language"]:
        rule = f"MimoModel runs encoders that feed language; {module.name} feeds {outgoing or 'nothing'}"
        yield Limit("megatron-core", where, rule, "let the module feed language")
    if module.special_token_id is None:
        rule = "MimoModel places a module's output at its special_token_id; there is none"
        yield Limit("megatron-core", where, rule, "add special_token_id")
    if module.output.tensor_dims != 2:
        rule = f"MimoModel's submodules hand on (tokens, hidden), so tensor_dims = 2, got {module.output.tensor_dims}"
        yield Limit("megatron-core", f"{where}.output", rule, "write `output: {tensor_dims: 2}`")


def _edges(plan: Plan) -> Iterator[Limit]:
    for src, dst in plan.edges:
        source, target = plan.module(src), plan.module(dst)
        num_src, num_dst = source.grid.num_lanes, target.grid.num_lanes
        where = f"edge {src}->{dst}"
        if num_src % num_dst and num_dst % num_src:
            rule = f"dp sizes divide one another, got {num_src} and {num_dst}"
            yield Limit("bridge", where, rule, f"use a dp for {src} that divides {num_dst}, or a multiple of it")
        varies = source.output.tokens_per_sample is None
        if varies and num_src > num_dst:
            rule = f"tokens per sample are fixed where dp shrinks ({num_src} to {num_dst}): gradients are cut equally"
            yield Limit("bridge", where, rule, f"add tokens_per_sample to {src}, or use dp <= {num_dst} there")
        elif varies and num_src != num_dst and plan.layout is ModuleLayout.COLOCATED:
            rule = f"tokens per sample are fixed where dp differs on shared ranks ({num_src} and {num_dst})"
            yield Limit("bridge", where, rule, f"add tokens_per_sample to {src}, or use equal dp")


def _shared_ranks(plan: Plan) -> Iterator[Limit]:
    """Encoders may share ranks when they share all of their grid: one forward pass, one slice of input_ids."""
    if plan.layout is not ModuleLayout.NON_COLOCATED:
        return
    encoders = [module for module in plan.modules if not module.is_language]
    for place, one in enumerate(encoders):
        for other in encoders[place + 1 :]:
            overlap = set(one.ranks) & set(other.ranks)
            if overlap and one.grid != other.grid:
                grids = f"{one.name} has {one.grid}, {other.name} {other.grid}"
                rule = f"encoders that share ranks have the same grid; {grids}"
                yield Limit("megatron-core", f"modules.{other.name}", rule, "give them equal axes, or place them apart")
