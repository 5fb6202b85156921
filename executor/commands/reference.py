"""The one-rank plan of the same model and batch, which every layout must train like."""

from __future__ import annotations

import attrs

from planner import FrozenMap, Parallel, Plan, compile_spec


def reference_of(plan: Plan) -> Plan:
    """The plan with every module undivided on rank 0. What is said of it names the places of the spec."""
    spec = plan.to_spec()
    modules = {
        name: attrs.evolve(module, parallel=Parallel(dp=1), stages=None) for name, module in spec.modules.items()
    }
    alone = attrs.evolve(spec, modules=FrozenMap(modules), placement="colocated", cluster=None)
    return attrs.evolve(compile_spec(alone, world_size=1), source=plan.source)
