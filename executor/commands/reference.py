"""The one-rank plan of the same model and batch, which every layout must train like."""

from __future__ import annotations

import attrs

from planner import Axis, FrozenMap, Parallel, Plan, compile_spec
from planner.spec.presets import padded_vocab_size


def reference_of(plan: Plan) -> Plan:
    """The plan with every module undivided on rank 0. The vocabulary keeps the padding that the layout gives it."""
    spec = plan.to_spec()
    modules = {}
    for name, module in spec.modules.items():
        model = module.model
        if model is not None and plan.module(name).is_language:
            tp = plan.module(name).grid.size_of(Axis.TP)
            model = attrs.evolve(model, vocab_size=padded_vocab_size(model, tp))
        modules[name] = attrs.evolve(module, parallel=Parallel(dp=1), model=model, stages=None)
    alone = attrs.evolve(spec, modules=FrozenMap(modules), placement="colocated", cluster=None)
    return compile_spec(alone, world_size=1)
