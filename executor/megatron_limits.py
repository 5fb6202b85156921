"""What the installed megatron-core cannot run, refused by name before any collective.

The planner refuses only what is meaningless. A plan may be valid and still beyond megatron-core 0.19, which answers
sometimes with an assertion deep in a constructor and sometimes with a wrong gradient. Each limit here names the
component that cannot: `megatron-core` is the library itself, `forward pass` is this package's one forward pass per
rank, and `ready-made models` are what LlavaMimoProvider and the commands build. Limits of the ready-made models do not
apply to a user's own specs.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from itertools import combinations

import attrs

from planner import MIMO_LANGUAGE_MODULE_KEY, Axis, ModulePlan, Plan

from .errors import UnsupportedError
from .start.layer_backend import Layers, choose_layers
from .start.versions import check_versions

MEGATRON_CORE, READY_MODELS, FORWARD_PASS = "megatron-core", "ready-made models", "forward pass"


@attrs.frozen
class Limit:
    """One reason why a plan cannot run.

    Attributes:
        component: what cannot run it: MEGATRON_CORE, READY_MODELS or FORWARD_PASS.
        where: the module or edge, as a path into the spec.
        rule: the rule that the plan breaks, with its values.
        remedy: what to change.
    """

    component: str
    where: str
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.rule} [{self.component}]\n    fix: {self.remedy}"


def check_dtype(dtype: str) -> None:
    """Raise UnsupportedError for fp16, the only dtype of a spec in which a plan cannot train."""
    if dtype == "fp16":
        raise UnsupportedError(
            "fp16: loss scaling over several modules is not right in megatron-core 0.19; each module's optimizer "
            "has a scale of its own, but the loss is scaled by the first's (Megatron-Bridge #5591: scales diverged)\n"
            "    fix: use bf16"
        )


def check_limits(plan: Plan, *, own_specs: bool = False) -> None:
    """Check that a plan can run.

    Args:
        own_specs: whether the modules are a user's own, so that the limits of the ready-made models do not apply.

    Raises:
        UnsupportedError: the plan is beyond a limit, or a version is not known here; names every limit.
    """
    check_versions()
    found = list(limits_of(plan, own_specs=own_specs))
    if found:
        lines = "\n".join(map(str, found))
        raise UnsupportedError(f"megatron-core {version('megatron-core')} cannot run this plan:\n{lines}")


def limits_of(plan: Plan, *, own_specs: bool = False) -> Iterator[Limit]:
    """Every limit that the plan is beyond, in the order of its modules and edges.

    Args:
        own_specs: as in `check_limits`.
    """
    for limit in _all_limits(plan):
        if not (own_specs and limit.component == READY_MODELS):
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
        rule = "sequence_parallel is for language: an encoder's class token makes its sequence indivisible by tp"
        yield Limit(READY_MODELS, where, rule, "remove sequence_parallel from the encoder")


def _experts(module: ModulePlan) -> Iterator[Limit]:
    """Experts need sequences that are divided over tp, and cannot have biases in two cases.

    Local layers forbid the in-place addition of a bias; and over tp, whose ranks hold different experts, biases would
    be summed (transformer/mlp.py, tensor_parallel/layers.py).
    """
    model, where, tp = module.model, f"modules.{module.name}", module.grid.size_of(Axis.TP)
    if model is None or model.num_moe_experts is None:
        return
    if tp > 1 and not module.sequence_parallel:
        rule = f"experts train with tp = 1 or with sequence_parallel: true; got tp = {tp} without it"
        yield Limit(MEGATRON_CORE, f"{where}.parallel", rule, "add sequence_parallel: true")
    if model.add_bias_linear and (tp > 1 or choose_layers() is Layers.LOCAL):
        rule = "experts have no biases with tp > 1, nor with local layers: add_bias_linear = false, got true"
        yield Limit(MEGATRON_CORE, f"{where}.model", rule, "write `add_bias_linear: false`")


def _context(where: str, module: ModulePlan, cp: int) -> Iterator[Limit]:
    if not module.is_language:
        rule = f"cp = 1, got {cp}: the encoders do not divide their sequences"
        yield Limit(READY_MODELS, where, rule, "use cp: 1, perhaps with a larger tp")
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
        rule = f"ready-made encoders feed language, and take no other module's output; {module.name} feeds {outgoing}"
        yield Limit(READY_MODELS, where, rule, "let the module feed only language, or give specs of your own")
    if len(incoming) > 1:
        rule = f"an encoder takes one module's output, as its hidden_states; {module.name} takes {incoming}"
        yield Limit(FORWARD_PASS, where, rule, "let only one of them feed it")
    if MIMO_LANGUAGE_MODULE_KEY not in outgoing:
        return
    if module.special_token_id is None:
        rule = "MimoModel places a module's output at its special_token_id; the spec has none"
        yield Limit(READY_MODELS, where, rule, "add special_token_id")
    if module.output.tensor_dims != 2:
        rule = f"MimoModel's submodules hand on (tokens, hidden): tensor_dims = 2, got {module.output.tensor_dims}"
        yield Limit(MEGATRON_CORE, f"{where}.output", rule, "write `output: {tensor_dims: 2}`")


def _shared_ranks(plan: Plan) -> Iterator[Limit]:
    """What follows from one forward pass per rank, which runs the rank's encoders and then its language stage.

    An encoder that shares ranks with language runs inside language's first stage. Encoders that share ranks with one
    another, but not with language, must be at the same position of the pipeline.
    """
    language = plan.module(MIMO_LANGUAGE_MODULE_KEY)
    inside = [module for module in _encoders(plan) if module.grid.overlaps(language.grid)]
    for module in inside:
        where = f"modules.{module.name}"
        if module.num_stages > 1:
            rule = f"an encoder on ranks of language has pp = 1, got {module.num_stages}: it runs inside one stage"
            yield Limit(FORWARD_PASS, where, rule, "use pp: 1, or place the modules apart")
        shared = [rank for rank in module.ranks if rank in language.grid]
        later = [rank for rank in shared if language.grid.coord(rank, Axis.PP) > 0]
        if later:
            rule = f"an encoder shares ranks with language's first stage only; rank {later[0]} is of a later one"
            yield Limit(FORWARD_PASS, where, rule, "use pp: 1 for language, or other ranks for the encoder")
    for one, other in combinations(_encoders(plan), 2):
        if not one.grid.overlaps(other.grid):
            continue
        where = f"modules.{other.name}"
        if (one in inside) != (other in inside):
            rule = f"of {one.name} and {other.name}, which share ranks, both or neither share ranks with language"
            yield Limit(FORWARD_PASS, where, rule, "place them apart")
        elif one.grid != other.grid and max(one.num_stages, other.num_stages) > 1:
            rule = f"encoders that share ranks have pp = 1 or the same grid; got {one.grid} and {other.grid}"
            yield Limit(FORWARD_PASS, where, rule, "give them pp: 1 or equal axes, or place them apart")


def _edges(plan: Plan) -> Iterator[Limit]:
    """Edges between encoders that share ranks, and paths of edges that leave shared ranks and come back to them."""
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
        if len(outgoing) > 1 and not one.grid.overlaps(language.grid):
            rule = (
                f"{src} feeds {dst} inside one forward pass, so it feeds nothing else, because each output of the pass "
                f"has a backward pass of its own; it feeds {outgoing}"
            )
            yield Limit(FORWARD_PASS, where, rule, f"place {src} and {dst} apart")
    if cycle := plan.pipeline.cycle:
        path = " -> ".join(cycle)
        rule = f"modules that share ranks run in one pass, which cannot wait for what comes of it; found {path}"
        yield Limit(FORWARD_PASS, "topology", rule, "place the modules of this path apart")


def _encoders(plan: Plan) -> list[ModulePlan]:
    return [module for module in plan.modules if not module.is_language]
