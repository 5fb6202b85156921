"""The update, once per step: gradients are reduced, weights updated and gathered."""

from __future__ import annotations

from ...base.axes import Axis
from ...layout.ir import GroupKind, ModulePlan
from ...plan import Plan
from ...spec.presets import padded_vocab_size
from .facts import StageFacts
from .ops import Collective, CollectiveOp
from .parameters import parameter_bytes, summed_parameters, widths

# Adam reads the gradient and three fp32 values of a parameter, and writes three and the model's own; SGD one.
_UPDATE_BYTES = {"adam": 30, "sgd": 14}


def _replicas(module: ModulePlan) -> tuple[int, int]:
    """Ranks that hold the same (dense parameters, experts)."""
    size = module.grid.size_of
    return size(Axis.DP) * size(Axis.CP), size(Axis.EXPT_DP)


def state_shards(plan: Plan, module: ModulePlan) -> tuple[int, int]:
    """Ranks that share out the optimizer's state: (of dense parameters, of experts). Ones without sharding."""
    return _replicas(module) if plan.training.distributed_optimizer else (1, 1)


def update_collectives(plan: Plan, stage: StageFacts) -> tuple[Collective, ...]:
    """Reduction of gradients over the lanes, gathering of updated weights, the sum of tied embeddings, and that of
    what sequence parallelism computes on a part of the sequence."""
    found: list[Collective] = []
    module, settings = stage.module, stage.settings
    counts = stage.parameters.dense, stage.parameters.experts
    for kind, size, count in zip((GroupKind.DP_CP, GroupKind.EXPT_DP), _replicas(module), counts, strict=True):
        if not count or size == 1:
            continue
        gradients = settings.gradient_bytes * count
        if plan.training.distributed_optimizer:
            found.append(Collective(kind, CollectiveOp.REDUCE_SCATTER, gradients))
            found.append(
                Collective(kind, CollectiveOp.ALL_GATHER, parameter_bytes(plan) * count, _num_gathers(plan, module))
            )
        else:
            found.append(Collective(kind, CollectiveOp.ALL_REDUCE, gradients))
    model = module.model
    if (
        model is not None
        and module.sequence_parallel
        and module.grid.size_of(Axis.TP) > 1
        and not module.freeze.encoder
    ):
        count = summed_parameters(model, stage.num_layers, is_last=stage.is_last)
        found.append(Collective(GroupKind.TP, CollectiveOp.ALL_REDUCE, settings.gradient_bytes * count))
    tied = module.is_language and model is not None and not model.untie_embeddings_and_output_weights
    if model is not None and tied and stage.is_first != stage.is_last and not module.freeze.all:
        tp = module.grid.size_of(Axis.TP)
        rows = padded_vocab_size(model, tp) // tp * widths(model).hidden
        found.append(Collective(GroupKind.EMBD, CollectiveOp.ALL_REDUCE, settings.gradient_bytes * rows))
    return tuple(found)


def _num_gathers(plan: Plan, module: ModulePlan) -> int:
    """How often a distributed optimizer gathers a module's weights.

    Where experts train there is one optimizer for them and one for the rest, and megatron-core 0.19 lets each gather
    all weights of the module (optimizer/distrib_optimizer.py, start_param_sync_for_bucket_group_subset). Ranks gather
    the kinds of their parameters from the whole world, module by module, so that other ranks' modules of the same
    place in that order get an optimizer for experts too (optimizer/__init__.py, _get_param_groups).
    """
    language = next(one for one in plan.modules if one.is_language)
    has_experts = language.model is not None and language.model.num_moe_experts and not language.freeze.all
    return 2 if has_experts and _place(plan, module) == _place(plan, language) else 1


def _place(plan: Plan, module: ModulePlan) -> int:
    """Modules before this one on its first rank."""
    before = plan.modules[: plan.modules.index(module)]
    return sum(module.grid.rank_offset in other.grid for other in before)


def update_bytes(plan: Plan, stage: StageFacts) -> float:
    """Memory traffic of the update on one rank: the state that it holds, and gradients measured and cleared."""
    parameters = stage.parameters
    dense, experts = state_shards(plan, stage.module)
    each = _UPDATE_BYTES[plan.training.optimizer]
    trained = parameters.dense + parameters.experts
    return (
        each * (parameters.dense / dense + parameters.experts / experts) + 2 * stage.settings.gradient_bytes * trained
    )
