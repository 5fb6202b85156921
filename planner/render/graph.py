"""A plan as a drawing: the text of a Graphviz (`dot`) or Mermaid graph, a box for each module, an arrow for each edge.

Names of modules are letters, digits, `_` and `-`. Everything else that a user wrote is quoted and escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

from ..base.axes import Axis
from ..layout.ir import Bridge, ModulePlan
from ..plan import Plan
from .overview import model_name
from .style import plural


def dot_text(plan: Plan) -> str:
    """The plan as a directed graph in Graphviz's language."""

    def quoted(lines: list[str]) -> str:
        escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
        return '"{}"'.format("\\n".join(escaped))

    def node(module: ModulePlan) -> str:
        return f"  {quoted([module.name])} [label={quoted(_module_lines(module))}];"

    def edge(bridge: Bridge) -> str:
        return f"  {quoted([bridge.src])} -> {quoted([bridge.dst])} [label={quoted(_bridge_lines(plan, bridge))}];"

    head = ["digraph plan {", "  rankdir=LR;", "  node [shape=box];", f"  label={quoted([_title(plan)])};"]
    return "\n".join([*head, *_drawn(plan, node, edge), "}"]) + "\n"


def mermaid_text(plan: Plan) -> str:
    """The plan as a Mermaid flowchart, which Markdown pages draw in a block marked `mermaid`."""
    # A name could be one of Mermaid's own words, such as `end`; a node is therefore named by its number.
    nodes = {module.name: f"m{i}" for i, module in enumerate(plan.modules)}

    def quoted(lines: list[str]) -> str:
        escaped = (line.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;") for line in lines)
        return '"{}"'.format("<br/>".join(escaped))

    def node(module: ModulePlan) -> str:
        return f"  {nodes[module.name]}[{quoted(_module_lines(module))}]"

    def edge(bridge: Bridge) -> str:
        return f"  {nodes[bridge.src]} -->|{quoted(_bridge_lines(plan, bridge))}| {nodes[bridge.dst]}"

    return "\n".join(["---", f"title: {_title(plan)}", "---", "flowchart LR", *_drawn(plan, node, edge)]) + "\n"


def _drawn(plan: Plan, node: Callable[[ModulePlan], str], edge: Callable[[Bridge], str]) -> Iterator[str]:
    yield from map(node, plan.modules)
    yield from map(edge, plan.bridges)


def _title(plan: Plan) -> str:
    batch = plan.batch
    return (
        f"{plural(plan.world_size, 'rank')}, {plural(batch.num_microbatches, 'microbatch')}"
        f" of {plural(batch.micro_size, 'sample')}"
    )


def _module_lines(module: ModulePlan) -> list[str]:
    """A module's name, model, ranks, and the sizes of its axes that are above 1."""
    grid = module.grid
    ranks = f"ranks {grid.rank_offset}-{grid.end - 1}" if grid.size > 1 else f"rank {grid.rank_offset}"
    axes = (Axis.TP, Axis.CP, Axis.DP, Axis.PP, *((Axis.EXPT_TP, Axis.EP) if _has_experts(module) else ()))
    sizes = [f"{axis} {grid.size_of(axis)}" for axis in axes if grid.size_of(axis) > 1]
    model = [model_name(module)] if module.model is not None else []
    return [module.name, *model, ranks, *([", ".join(sizes)] if sizes else [])]


def _has_experts(module: ModulePlan) -> bool:
    return prod(module.grid.size_of(axis) for axis in (Axis.EXPT_TP, Axis.EP)) > 1


def _bridge_lines(plan: Plan, bridge: Bridge) -> list[str]:
    """How a bridge's bytes move, the lanes on either side, and the size of a sample's tensor if it is known."""
    num_src, num_dst = len(bridge.src_broadcast), len(bridge.dst_broadcast)
    lanes = f"{plural(num_src, 'lane')} to {num_dst:,}"
    num_bytes = plan.bytes_per_sample(bridge.src, bridge.dst)
    size = [f"{num_bytes / 2**20:.1f} MiB per sample"] if num_bytes is not None else []
    return [str(bridge.strategy), f"{lanes}, {plural(len(bridge.transfers), 'transfer')}", *size]
