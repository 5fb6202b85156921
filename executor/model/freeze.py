"""Which modules of a model are frozen: what the plan says, unless the caller says otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from megatron.core.models.mimo.model.base import MimoModel

from planner import MIMO_LANGUAGE_MODULE_KEY, FrozenMap, Plan


@attrs.frozen(kw_only=True)
class Frozen:
    """What has no gradients.

    Attributes:
        language: whether the whole language module is frozen.
        encoders: per encoder module, whether its encoders are frozen.
        projections: per encoder module, whether its input projections are frozen.
    """

    language: bool
    encoders: FrozenMap[str, bool]
    projections: FrozenMap[str, bool]

    @classmethod
    def of(
        cls,
        plan: Plan,
        language: bool | None = None,
        encoders: Mapping[str, bool] | None = None,
        projections: Mapping[str, bool] | None = None,
    ) -> Frozen:
        """What the plan freezes, with whatever is given here instead."""
        modules = [module for module in plan.modules if not module.is_language]
        planned = plan.module(MIMO_LANGUAGE_MODULE_KEY).freeze.all
        return cls(
            language=planned if language is None else language,
            encoders=FrozenMap({module.name: module.freeze.encoder for module in modules} | dict(encoders or {})),
            projections=FrozenMap(
                {module.name: module.freeze.projection for module in modules} | dict(projections or {})
            ),
        )


def freeze(model: MimoModel, frozen: Frozen) -> None:
    """Turn off the gradients of everything frozen that this rank holds."""
    if frozen.language and model.language_model is not None:
        model.language_model.requires_grad_(False)
    for name, submodules in model.modality_submodules.items():
        if frozen.encoders.get(name):
            submodules.encoders.requires_grad_(False)
        if frozen.projections.get(name):
            submodules.input_projections.requires_grad_(False)
