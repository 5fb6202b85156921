"""The update at the end of a step: gradients are reduced, weights are updated and gathered."""

from __future__ import annotations

from ...base.axes import Axis
from ...layout.ir import GroupKind, ModulePlan
from ...plan import Plan
from ...spec.presets import padded_vocab_size
from .facts import StageFacts
from .ops import Collective, CollectiveOp
from .parameters import parameter_bytes, summed_parameters, widths

# Per parameter: Adam reads the gradient and three fp32 values, and writes these three and the model's own value. SGD
# reads the gradient and one fp32 value, and writes that one and the model's own.
_UPDATE_BYTES = {"adam": 30, "sgd": 14}


def _replicas(module: ModulePlan) -> tuple[int, int]:
    """Number of ranks that hold the same (dense parameters, experts)."""
    size = module.grid.size_of
    return size(Axis.DP) * size(Axis.CP), size(Axis.EXPT_DP)


def state_shards(plan: Plan, module: ModulePlan) -> tuple[int, int]:
    """Number of ranks that share out the optimizer's state of (dense parameters, experts); (1, 1) if it is whole."""
    return _replicas(module) if plan.training.distributed_optimizer else (1, 1)


def update_collectives(plan: Plan, stage: StageFacts) -> tuple[Collective, ...]:
    """The collectives of a stage's update.

    Gradients are reduced over the lanes, and a distributed optimizer gathers the updated weights. Tied embeddings on
    two stages sum their gradients, and so do, over tp, the parameters that see only a share of the sequence under
    sequence parallelism.
    """
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

    If experts train, they have an optimizer of their own beside that of the other parameters, and in megatron-core 0.19
    each of the two gathers all weights of the module (optimizer/distrib_optimizer.py,
    start_param_sync_for_bucket_group_subset). All ranks of the world agree on the kinds of parameters, module by
    module. So a module without experts gets two optimizers as well if it has the same place among the modules of its
    ranks as the language model has on its own (optimizer/__init__.py, _get_param_groups).
    """
    language = next(one for one in plan.modules if one.is_language)
    has_experts = language.model is not None and language.model.num_moe_experts and not language.freeze.all
    return 2 if has_experts and _place(plan, module) == _place(plan, language) else 1


def _place(plan: Plan, module: ModulePlan) -> int:
    """The number of modules before this one on its first rank."""
    before = plan.modules[: plan.modules.index(module)]
    return sum(module.grid.rank_offset in other.grid for other in before)


def update_bytes(plan: Plan, stage: StageFacts) -> float:
    """Bytes that the update reads and writes on one rank.

    They are those of the optimizer state that the rank holds, and of all its gradients, which are read for their norm
    and cleared.
    """
    parameters = stage.parameters
    dense, experts = state_shards(plan, stage.module)
    each = _UPDATE_BYTES[plan.training.optimizer]
    trained = parameters.dense + parameters.experts
    return (
        each * (parameters.dense / dense + parameters.experts / experts) + 2 * stage.settings.gradient_bytes * trained
    )
