"""Facts of a stage, derived once: its tokens, the shape of its layers, what trains in it, and its parameters.

Counted work, times and memory all read them, so that no two of them can disagree about a stage.

The rule of gradients: a part computes the gradient of its weights if it trains, and the gradient of its input if that
is asked for. It is asked for if anything before the part in the same pass trains. It is always asked for if the input
came from another stage or over a bridge: megatron-core's pipeline and our bridges ask for it whether or not anything
trains where the tensor came from. The backward pass of a frozen encoder therefore visits all its stages but the first.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...base.frozen import frozen
from ...layout.ir import ModulePlan
from ...plan import Plan
from .layers import LayerShape, shape_of
from .parameters import Parameters, parameter_bytes, stage_parameters
from .settings import Settings
from .tokens import Tokens, tokens_of


@frozen(kw_only=True)
class Gradients:
    """What trains around the parts of a module's stage.

    Attributes:
        before: whether a gradient must leave the stage, towards the stage before it or the module's sources.
        body: whether the encoder, or the language model, trains.
        projector: whether the projection trains.
    """

    before: bool
    body: bool
    projector: bool


@frozen(kw_only=True)
class StageFacts:
    """The facts from which the work and the memory of one rank of a stage follow.

    Attributes:
        module: the stage's module.
        index: the stage's index in its module, from 0.
        settings: what is assumed of the training software.
        tokens: the tokens of one microbatch of a lane.
        shape: the shape of a layer; None if the module has no model.
        gradients: what trains in the stage.
        parameters: the parameters that one rank holds.
        language_width: hidden size of the language model, into which encoders project; 0 if it has no model.
    """

    module: ModulePlan
    index: int
    settings: Settings
    tokens: Tokens
    shape: LayerShape | None
    gradients: Gradients
    parameters: Parameters
    language_width: int

    @property
    def is_first(self) -> bool:
        """Whether this is the module's first stage."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether this is the module's last stage."""
        return self.index == self.module.num_stages - 1

    @property
    def num_layers(self) -> int:
        """Transformer layers of the stage; 0 if the module has no model."""
        return self.module.stages[self.index] if self.module.stages else 0


Facts = Mapping[tuple[str, int], StageFacts]
"""(module, index of the stage) -> the facts of that stage."""


def facts_of(plan: Plan, settings: Settings) -> Facts:
    """The facts of every stage of a plan, in plan order."""
    return {
        (module.name, index): facts
        for module in plan.modules
        for index, facts in enumerate(_facts_of_module(plan, module, settings))
    }


def facts_of_stage(plan: Plan, module: ModulePlan, index: int, settings: Settings) -> StageFacts:
    """The facts of one stage of `module`, which may be a changed version of the plan's module of the same name."""
    return _facts_of_module(plan, module, settings)[index]


def _facts_of_module(plan: Plan, module: ModulePlan, settings: Settings) -> list[StageFacts]:
    tokens, width = tokens_of(plan, module), _language_width(plan)
    shape = None if module.model is None else shape_of(module, tokens, settings, parameter_bytes(plan))
    needs_gradient = _needs_gradient(plan, module.name)
    return [
        StageFacts(
            module=module,
            index=index,
            settings=settings,
            tokens=tokens,
            shape=shape,
            gradients=Gradients(
                before=index > 0 or needs_gradient,
                body=not module.freeze.encoder,
                projector=not module.freeze.projection,
            ),
            parameters=stage_parameters(module, index, width),
            language_width=width,
        )
        for index in range(module.num_stages)
    ]


def _needs_gradient(plan: Plan, name: str) -> bool:
    """Whether the first stage of a module must compute the gradient of its input.

    It must if its input comes from other ranks or another stage, or from something that trains. A frozen source of one
    stage on the same grid hands its tensor on in place, and asks for a gradient only if its own input needs one.
    """
    grid = plan.module(name).grid
    sources = [plan.module(src) for src, dst in plan.edges if dst == name]
    return any(
        source.grid != grid or source.num_stages > 1 or not source.freeze.all or _needs_gradient(plan, source.name)
        for source in sources
    )


def _language_width(plan: Plan) -> int:
    """Hidden size of the language model; 0 if it has no model."""
    model = next((module.model for module in plan.modules if module.is_language), None)
    return (model.hidden_size or 0) if model else 0
