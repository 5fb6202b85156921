"""What a module cannot be by itself: its axes, its sizes, its experts and its stages."""

from __future__ import annotations

from ..base import codes
from ..base.axes import Axis
from ..base.errors import Path
from ..layout.ir import ModulePlan
from ..plan import Plan
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY, Model
from .layers import Layers
from .rule import Reasons, encoders_of

_ENCODERS = ("vit", "audio")  # the families of the ready-made encoders


def module_limits(module: ModulePlan, layers: Layers) -> Reasons:
    """The reasons why no such module runs, whatever is beside it."""
    path: Path = ("modules", module.name)
    yield from _context(path, module, layers)
    yield from _sequence(path, module)
    yield from _stages(path, module)
    if module.model is not None:
        yield from _sizes(path, module, module.model)
        yield from _experts(path, module, module.model, layers)


def unsized_limits(plan: Plan) -> Reasons:
    """Modules without a model, in one reason: a spec of a layout alone has none at all."""
    if unsized := [module.name for module in plan.modules if module.model is None]:
        rule = f"training needs a model of every module; there is none for {', '.join(unsized)}"
        remedy = "add `model:` with a preset or sizes, or train with specs of your own"
        yield codes.NO_MODEL, ("modules", unsized[0]), rule, remedy


def projector_limits(plan: Plan) -> Reasons:
    """Projectors that the tp of their encoder does not divide."""
    language = plan.module(MIMO_LANGUAGE_MODULE_KEY).model
    for module in encoders_of(plan):
        if module.model is None or language is None:
            continue
        tp, inner = module.grid.size_of(Axis.TP), module.model.projector_hidden_size
        name = "projector_hidden_size" if inner is not None else "hidden_size of language"
        width = (language.hidden_size or 1) if inner is None else inner
        if width % tp:
            rule = f"{name} % tp = {width} % {tp} = 0, got {width % tp}"
            path = ("modules", module.name, "model", "projector_hidden_size")
            yield codes.PROJECTOR_WIDTH, path, rule, f"write a projector_hidden_size that is a multiple of {tp}"


def _context(path: Path, module: ModulePlan, layers: Layers) -> Reasons:
    cp, at = module.grid.size_of(Axis.CP), (*path, "parallel", "cp")
    if cp == 1:
        return
    if not module.is_language:
        rule = f"cp = 1, got {cp}: the encoders do not divide their sequences"
        yield codes.ENCODER_CONTEXT, at, rule, "use cp: 1, perhaps with a larger tp, or an encoder of your own"
    elif layers is Layers.LOCAL:
        rule = f"cp = 1 with local attention, got {cp}: context parallelism needs Transformer Engine's, on a GPU"
        remedy = "use cp: 1, or GPUs with transformer-engine (`cluster: {gpu: NAME}`, --target te)"
        yield codes.LOCAL_CONTEXT, at, rule, remedy


def _sequence(path: Path, module: ModulePlan) -> Reasons:
    if module.sequence_parallel and not module.is_language and module.grid.size_of(Axis.TP) > 1:
        rule = "sequence_parallel is for language: an encoder's class token makes its sequence indivisible by tp"
        at = (*path, "parallel", "sequence_parallel")
        yield codes.ENCODER_SEQUENCE, at, rule, "remove sequence_parallel from the encoder"


def _stages(path: Path, module: ModulePlan) -> Reasons:
    stages = list(module.stages or ())
    if len(set(stages[1:-1])) > 1:
        rule = f"all stages but the first and the last hold equally many layers, got {stages}"
        yield codes.MIDDLE_STAGES, (*path, "stages"), rule, "even out the middle stages"


def _sizes(path: Path, module: ModulePlan, model: Model) -> Reasons:
    tp, groups = module.grid.size_of(Axis.TP), model.num_query_groups or 1
    if groups < tp:
        rule = f"num_query_groups >= tp, got {groups} < {tp}"
        yield codes.QUERY_GROUPS, (*path, "parallel", "tp"), rule, "lower tp"
    if not module.is_language and model.family not in _ENCODERS:
        rule = f"a ready-made encoder is of family {' or '.join(_ENCODERS)}, got {model.family}"
        yield codes.ENCODER_FAMILY, (*path, "model"), rule, "choose another family, or give specs of your own"
    if module.is_language and (model.kv_channels or 1) % 2:
        rule = f"kv_channels % 2 = {model.kv_channels} % 2 = 0, got 1: rotary embeddings turn pairs"
        yield codes.ROTARY_WIDTH, (*path, "model", "kv_channels"), rule, "make the width of a head even"


def _experts(path: Path, module: ModulePlan, model: Model, layers: Layers) -> Reasons:
    """Experts need sequences that are divided over tp, and cannot have biases in two cases.

    Local layers forbid the in-place addition of a bias; and over tp, whose ranks hold different experts, biases would
    be summed (transformer/mlp.py, tensor_parallel/layers.py).
    """
    if model.num_moe_experts is None:
        return
    tp = module.grid.size_of(Axis.TP)
    if tp > 1 and not module.sequence_parallel:
        rule = f"experts train with tp = 1 or with sequence_parallel: true; got tp = {tp} without it"
        at = (*path, "parallel", "sequence_parallel")
        yield codes.EXPERTS_OVER_TP, at, rule, "add sequence_parallel: true"
    if model.add_bias_linear and (tp > 1 or layers is Layers.LOCAL):
        rule = "experts have no biases with tp > 1, nor with local layers: add_bias_linear = false, got true"
        at = (*path, "model", "add_bias_linear")
        yield codes.EXPERT_BIASES, at, rule, "write `add_bias_linear: false`"
