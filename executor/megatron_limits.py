"""What the installed megatron-core cannot run, refused by name before any collective.

The planner refuses only what is meaningless; a plan may be valid and still beyond megatron-core 0.19, whose answer
is sometimes an assertion deep in a constructor and sometimes a wrong gradient. Each rule here names its cause:
`megatron-core` for the library itself, `forward pass` for the one forward pass per rank of this package, and
`ready models` for what LlavaMimoProvider and the commands build: a user's own specs are not held to the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import attrs

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, ModulePlan, Plan

from .errors import UnsupportedError
from .start.layer_backend import Layers, choose_layers

KNOWN_VERSION = "0.19"
KNOWN_RANGE = f">={KNOWN_VERSION},<0.20"

MEGATRON_CORE, READY_MODELS, FORWARD_PASS = "megatron-core", "ready models", "forward pass"


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


def check_dtype(dtype: str) -> None:
    """Raise UnsupportedError for fp16, the one dtype of a spec that cannot be trained in."""
    if dtype == "fp16":
        raise UnsupportedError(
            "fp16: loss scaling over several modules is not right in megatron-core 0.19; each module's optimizer "
            "scales by itself, and the loss by the first's (Megatron-Bridge #5591: scales diverged)\n"
            "    fix: use bf16"
        )


def check_limits(plan: Plan, *, own_specs: bool = False) -> None:
    """Raise UnsupportedError with every limit that the plan is beyond.

    Args:
        own_specs: the modules are a user's own, so that what the ready models cannot do does not count.
    """
    check_version()
    found = list(limits_of(plan, own_specs=own_specs))
    if found:
        lines = "\n".join(map(str, found))
        raise UnsupportedError(f"megatron-core {version('megatron-core')} cannot run this plan:\n{lines}")


def limits_of(plan: Plan, *, own_specs: bool = False) -> Iterator[Limit]:
    """Every limit that the plan is beyond, in the order of its modules and edges."""
    for limit in _all_limits(plan):
        if not (own_specs and limit.part == READY_MODELS):
            yield limit


def _all_limits(plan: Plan) -> Iterator[Limit]:
    for module in plan.modules:
        yield from _axes(module)
        yield from _experts(module)
        yield from _stages(module)
        yield from _role(plan, module)
    yield from _shared_ranks(plan)
    yield from _edges(plan)


def _axes(module: ModulePlan) -> Iterator[Limit]:
    where, size = f"modules.{module.name}", module.grid.size_of
    if size(Axis.CP) > 1:
        yield from _context(where, module, size(Axis.CP))
    groups = module.model.num_query_groups if module.model else None
    if groups is not None and groups < size(Axis.TP):
        rule = f"num_query_groups >= tp, got {groups} < {size(Axis.TP)}"
        yield Limit(READY_MODELS, where, rule, "lower tp")
    if module.sequence_parallel and not module.is_language and size(Axis.TP) > 1:
        rule = "sequence_parallel is for language: an encoder's class token leaves its sequence indivisible"
        yield Limit(READY_MODELS, where, rule, "remove sequence_parallel from the encoder")


def _experts(module: ModulePlan) -> Iterator[Limit]:
    """Experts want sequences divided over tp; and their biases are added in place to what local layers forbid that of,
    and summed over tp, whose ranks hold different experts (transformer/mlp.py, tensor_parallel/layers.py)."""
    model, where, tp = module.model, f"modules.{module.name}", module.grid.size_of(Axis.TP)
    if model is None or model.num_moe_experts is None:
        return
    if tp > 1 and not module.sequence_parallel:
        rule = f"experts train with tp = 1 or sequence_parallel: true; tp = {tp} without it"
        yield Limit(MEGATRON_CORE, f"{where}.parallel", rule, "add sequence_parallel: true")
    if model.add_bias_linear and (tp > 1 or choose_layers() is Layers.LOCAL):
        rule = "experts have no biases over tp, nor with local layers: add_bias_linear = false, got true"
        yield Limit(MEGATRON_CORE, f"{where}.model", rule, "write `add_bias_linear: false`")


def _context(where: str, module: ModulePlan, cp: int) -> Iterator[Limit]:
    if not module.is_language:
        rule = f"cp = 1, got {cp}: the encoders do not divide their sequences"
        yield Limit(READY_MODELS, where, rule, "use cp: 1, or more tp")
    elif choose_layers() is Layers.LOCAL:
        rule = f"cp = 1 with local attention, got {cp}: context parallelism needs Transformer Engine's, on a GPU"
        yield Limit(READY_MODELS, where, rule, "use cp: 1, or a GPU with transformer-engine installed")


def _stages(module: ModulePlan) -> Iterator[Limit]:
    middle = set((module.stages or ())[1:-1])
    if len(middle) > 1:
        rule = f"all stages but the first and the last hold equally many layers, got {list(module.stages or ())}"
        yield Limit(MEGATRON_CORE, f"modules.{module.name}.stages", rule, "even out the middle stages")


def _role(plan: Plan, module: ModulePlan) -> Iterator[Limit]:
    if module.is_language:
        return
    where = f"modules.{module.name}"
    outgoing = [dst for src, dst in plan.edges if src == module.name]
    incoming = [src for src, dst in plan.edges if dst == module.name]
    if not outgoing:
        rule = f"MimoModel ends with language; {module.name} comes after it"
        yield Limit(MEGATRON_CORE, where, rule, "leave the module out")
        return
    if outgoing != [MIMO_LANGUAGE_MODULE_KEY]:
        rule = f"ready encoders feed language, and take no other module's output; {module.name} feeds {outgoing}"
        yield Limit(READY_MODELS, where, rule, "let the module feed language only, or give specs of your own")
    if len(incoming) > 1:
        rule = f"an encoder takes one module's output, as its hidden_states; {module.name} takes {incoming}"
        yield Limit(FORWARD_PASS, where, rule, "let one of them feed it")
    if MIMO_LANGUAGE_MODULE_KEY not in outgoing:
        return
    if module.special_token_id is None:
        rule = "MimoModel places a module's output at its special_token_id; the spec has none"
        yield Limit(READY_MODELS, where, rule, "add special_token_id")
    if module.output.tensor_dims != 2:
        rule = f"MimoModel's submodules hand on (tokens, hidden), so tensor_dims = 2, got {module.output.tensor_dims}"
        yield Limit(MEGATRON_CORE, f"{where}.output", rule, "write `output: {tensor_dims: 2}`")


def _shared_ranks(plan: Plan) -> Iterator[Limit]:
    """One forward pass per rank: it runs the rank's encoders, then its language stage.

    So an encoder that shares ranks with language runs inside language's first stage, and encoders that share ranks
    apart from language must be at the same place of the pipeline.
    """
    language = plan.module(MIMO_LANGUAGE_MODULE_KEY)
    inside = [module for module in _encoders(plan) if overlap(module, language)]
    for module in inside:
        where = f"modules.{module.name}"
        if module.num_stages > 1:
            rule = f"an encoder on ranks of language has pp = 1, got {module.num_stages}: it runs inside one stage"
            yield Limit(FORWARD_PASS, where, rule, "use pp: 1, or place the modules apart")
        later = [rank for rank in overlap(module, language) if language.grid.coord(rank, Axis.PP) > 0]
        if later:
            rule = f"an encoder shares ranks with language's first stage only; rank {later[0]} is of a later one"
            yield Limit(FORWARD_PASS, where, rule, "use pp: 1 for language, or other ranks for the encoder")
    for place, one in enumerate(_encoders(plan)):
        for other in _encoders(plan)[place + 1 :]:
            if not overlap(one, other):
                continue
            where = f"modules.{other.name}"
            if (one in inside) != (other in inside):
                rule = f"of {one.name} and {other.name}, which share ranks, both or neither share ranks with language"
                yield Limit(FORWARD_PASS, where, rule, "place them apart")
            elif one.grid != other.grid and max(one.num_stages, other.num_stages) > 1:
                rule = f"encoders that share ranks have pp = 1 or the same grid; {one.grid} and {other.grid}"
                yield Limit(FORWARD_PASS, where, rule, "give them pp: 1 or equal axes, or place them apart")


def _edges(plan: Plan) -> Iterator[Limit]:
    """Edges between encoders on the same ranks, and around what shares ranks."""
    language = plan.module(MIMO_LANGUAGE_MODULE_KEY)
    for src, dst in plan.pipeline.shared:
        one, other = plan.module(src), plan.module(dst)
        if MIMO_LANGUAGE_MODULE_KEY in {src, dst}:
            continue
        where = f"topology.{src}"
        if one.ranks != other.ranks or max(one.num_stages, other.num_stages) > 1:
            rule = f"{src} feeds {dst} on ranks of its own, so both have the same ranks and pp = 1"
            yield Limit(FORWARD_PASS, where, rule, "give them equal ranks, or place them apart")
        outgoing = [to for of, to in plan.edges if of == src]
        if len(outgoing) > 1 and not overlap(one, language):
            rule = f"{src} feeds {dst} in one pass, whose outputs go back apart, so nothing else; it feeds {outgoing}"
            yield Limit(FORWARD_PASS, where, rule, f"place {src} and {dst} apart")
    if cycle := plan.pipeline.cycle:
        path = " -> ".join(cycle)
        rule = f"modules that share ranks run in one pass, which waits for nothing that comes of it; found {path}"
        yield Limit(FORWARD_PASS, "topology", rule, "place the modules of this path apart")


def _encoders(plan: Plan) -> list[ModulePlan]:
    return [module for module in plan.modules if not module.is_language]


def overlap(one: ModulePlan, other: ModulePlan) -> range:
    """The ranks of both."""
    return range(max(one.grid.rank_offset, other.grid.rank_offset), min(one.grid.end, other.grid.end))
