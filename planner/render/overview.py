"""What `mimo plan SPEC` prints: everything that a person wants to see before spending GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import attrs

from ..base.axes import DEFAULT_ORDER, Axis, format_order
from ..base.errors import Fault
from ..base.printable import printable
from ..layout.groups import Family
from ..layout.ir import ModulePlan
from ..plan import Plan
from .bridges import bridge_lines, group_sizes
from .faults import fault_lines
from .rank_map import rank_map
from .style import Style, columns, listed, plural, shorten, wrap

MAX_BRIDGES = 256  # as many as there may be modules; drawing more would take seconds, and nobody reads them


def overview(
    plan: Plan, name: str, style: Style, gpu: str | None = None, warnings: Sequence[Fault] | None = None
) -> str:
    """The whole plan as text, ending in a newline.

    Args:
        plan: the plan to show.
        name: the name of the spec's file.
        style: how the text is laid out and coloured.
        gpu: the GPU of the prediction; if None, the one that the spec names.
        warnings: what the last section warns of; the plan's own warnings if left out.

    Raises:
        PlanError: `gpu` is not known.
    """
    sections = [
        ("Modules", _modules(plan, style)),
        ("Ranks", rank_map(plan, style)),
        ("Groups", _groups(plan, style)),
        ("Bridges", _bridges(plan, style)),
        ("Batch", _batch(plan, style)),
        ("Prediction", _prediction(plan, style, gpu)),
        ("Warnings", warning_lines(plan.warnings if warnings is None else warnings, style)),
    ]
    lines = _header(plan, name, style)
    for title, body in sections:
        if body:
            lines += ["", style.bold(title), *body]
    return "\n".join(lines) + "\n"


def _header(plan: Plan, name: str, style: Style) -> list[str]:
    where = ""
    if plan.num_nodes is not None:
        where = f" on {plural(plan.num_nodes, 'node')} of {plan.gpus_per_node}"
    facts = f"{plural(plan.world_size, 'rank')}{where}, {plan.layout.value.replace('_', '-')}"
    return [style.bold(f"{printable(name)}: {facts}"), style.dim(f"digest {plan.digest}")]


def _modules(plan: Plan, style: Style) -> list[str]:
    expert = any(module.grid.ep > 1 or module.grid.expt_tp > 1 for module in plan.modules)
    expert_axes = (Axis.EXPT_TP, Axis.EP, Axis.EXPT_DP) if expert else ()
    axes = (Axis.TP, Axis.CP, Axis.DP, Axis.PP, *expert_axes)
    rows = [["module", "ranks", "size", *axes, "model"]]
    for module in plan.modules:
        grid = module.grid
        ranks = f"{grid.rank_offset}-{grid.end - 1}" if grid.size > 1 else str(grid.rank_offset)
        rows.append(
            [module.name, ranks, str(grid.size), *(str(grid.size_of(axis)) for axis in axes), model_name(module)]
        )
    title, *lines = columns(rows, right=frozenset(range(2, 3 + len(axes))))
    text = [style.dim(title)]
    for i, (line, module) in enumerate(zip(lines, plan.modules, strict=True)):
        text.append(style.module(shorten(line, style.width), i))
        text += [f"    {note}" for note in wrap(module_notes(module), style.width - 4) if note]
    return text


def model_name(module: ModulePlan) -> str:
    """The preset of a module's model, or its family and size."""
    model = module.model
    if model is None:
        return "-"
    return model.preset or f"{model.family} {model.num_layers}x{model.hidden_size}"


def module_notes(module: ModulePlan) -> list[str]:
    """What is unusual about a module, in phrases that are ready to be wrapped."""
    freeze = module.freeze
    frozen = "all" if freeze.all else "encoder" if freeze.encoder else "projection" if freeze.projection else ""
    uneven = module.stages is not None and len(set(module.stages)) > 1
    order = module.grid.order
    notes = [
        f"frozen: {frozen}" if frozen else "",
        f"layers per stage: {'+'.join(map(str, module.stages or ()))}" if uneven else "",
        f"recompute: {module.recompute}" if module.recompute != "none" else "",
        "sequence parallel" if module.sequence_parallel else "",
        f"order: {format_order(order)}" if order != DEFAULT_ORDER else "",
    ]
    return listed([note for note in notes if note], mark=";")


def _bridges(plan: Plan, style: Style) -> list[str]:
    lines = [line for bridge in plan.bridges[:MAX_BRIDGES] for line in bridge_lines(plan, bridge, style)]
    rest = len(plan.bridges) - MAX_BRIDGES
    return [*lines, f"  {plural(rest, 'more bridge')}, left out above {MAX_BRIDGES}"] if rest > 0 else lines


def _groups(plan: Plan, style: Style) -> list[str]:
    lines = []
    for owner, families in islice(plan.families_by_owner.items(), len(plan.modules) + MAX_BRIDGES):
        rows = _kinds_by_sets(families)
        for i, (sizes, kinds) in enumerate(rows):
            lines.append((owner if i == 0 else "", sizes, kinds))
    margin = max(len(owner) for owner, _, _ in lines) + 2
    middle = max(len(sizes) for _, sizes, _ in lines) + 2
    text = []
    for owner, sizes, kinds in lines:
        wrapped = wrap(kinds, style.width - margin - middle - 2)
        text.append(f"  {owner.ljust(margin)}{sizes.ljust(middle)}{wrapped[0]}")
        text += [" " * (2 + margin + middle) + rest for rest in wrapped[1:]]
    shared = plural(plan.num_communicators, "communicator")
    summary = f"  {plural(plan.num_groups, 'group')}; {shared} once equal rank sets are shared"
    return [*text, style.dim(summary)]


def _kinds_by_sets(families: Sequence[Family]) -> list[tuple[str, list[str]]]:
    """The kinds of one owner's groups: (number and size, kinds); kinds whose groups have equal ranks are together."""
    found: dict[object, tuple[str, list[str]]] = {}
    for family in families:
        # Two families of translates of a box are equal if box and starts are equal. Any other family stands alone.
        key = family.sets.translates() or family.kind
        found.setdefault(key, (f"{len(family):,} of {group_sizes(family)}", []))[1].append(family.kind)
    return list(found.values())


def _batch(plan: Plan, style: Style) -> list[str]:
    batch = plan.batch
    lanes = [
        f"{name} {plural(batch.grids[name].num_lanes, 'lane')} of {plural(count, 'sample')}"
        for name, count in batch.samples_per_lane.items()
    ]
    first, *rest = wrap(listed(["each microbatch:", *lanes], first=1), style.width - 4)
    steps = f"{plural(batch.global_size, 'sample')} per step = {plural(batch.num_microbatches, 'microbatch')}"
    whole, lane = batch.megatron_bridge_micro_batch_size, batch.megatron_lm_micro_batch_size
    return [
        f"  {steps} of {batch.micro_size:,}; {batch.seq_length:,} tokens per sample",
        f"  {first}",
        *(f"    {line}" for line in rest),
        f"  pipeline: {plural(plan.pipeline.num_stages, 'stage')} on the longest path",
        f"  micro_batch_size: {whole} in Megatron-Bridge, {lane} in Megatron-LM (per lane)",
    ]


def _prediction(plan: Plan, style: Style, gpu: str | None) -> list[str]:
    if any(module.model is None for module in plan.modules):
        return []
    from .summary import prediction_lines  # noqa: PLC0415  a plan without sizes does not need the cost model

    return prediction_lines(plan, style, gpu)


def warning_lines(warnings: Sequence[Fault], style: Style) -> list[str]:
    """The lines of some warnings, each after the line of the spec that it is about."""
    narrower = attrs.evolve(style, width=style.width - 2)
    return [f"  {line}" for warning in warnings for line in fault_lines(warning, narrower)]
