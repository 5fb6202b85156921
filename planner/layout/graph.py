"""The modules and edges of a plan as attributes of a graph: numbers, words and booleans under lasting names.

Every value is one that GraphML and JSON can hold, so an attribute that does not apply is left out.
"""

from __future__ import annotations

from ..base.axes import Axis, format_order
from .bridges import Edge
from .ir import ModulePlan

Attributes = dict[str, bool | int | str]


def module_attributes(module: ModulePlan, num_samples: int) -> Attributes:
    """What the node of a module carries.

    Args:
        num_samples: samples of one microbatch in one lane of the module.
    """
    grid, model = module.grid, module.model
    found: Attributes = {
        "first_rank": grid.rank_offset,
        "num_ranks": grid.size,
        "order": format_order(grid.order),
        **{str(axis): grid.size_of(axis) for axis in Axis},
        "num_stages": module.num_stages,
        "samples_per_lane": num_samples,
        "recompute": module.recompute,
        "sequence_parallel": module.sequence_parallel,
        "freeze_encoder": module.freeze.encoder,
        "freeze_projection": module.freeze.projection,
    }
    if module.stages is not None:
        found["layers_per_stage"] = ",".join(map(str, module.stages))
    if model is not None:
        sizes = {
            "model": model.preset,
            "family": model.family,
            "num_layers": model.num_layers,
            "hidden_size": model.hidden_size,
            "ffn_hidden_size": model.ffn_hidden_size,
            "num_attention_heads": model.num_attention_heads,
            "num_moe_experts": model.num_moe_experts,
        }
        found |= {name: value for name, value in sizes.items() if value is not None}
    return found


def edge_attributes(edge: Edge) -> Attributes:
    """What the edge between two modules carries. `bytes_per_sample` is of one tensor at the spec's dtype."""
    found: Attributes = {
        "strategy": str(edge.strategy),
        "num_src_lanes": len(edge.source),
        "num_dst_lanes": len(edge.destination),
        "num_transfers": len(edge.transfers),
        "shares_ranks": edge.shares_ranks,
    }
    if edge.sizes.bytes_per_sample is not None:
        found["bytes_per_sample"] = edge.sizes.bytes_per_sample
    return found
