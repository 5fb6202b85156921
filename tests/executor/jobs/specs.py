"""Tiny plans for tests that train. The caller chooses the layout, and the sizes are these."""

from __future__ import annotations

from typing import Any

import attrs

from planner import Batch, Freeze, Model, Module, Output, Parallel, Plan, Spec, compile_spec
from planner.cost.work.settings import EXECUTOR

IMAGE_TOKENS = 4
LOCAL = attrs.evolve(EXECUTOR, flash_attention=False)  # what the executor's models assume without Transformer Engine


def language(**changes: Any) -> Model:
    sizes: dict[str, Any] = {
        "family": "gpt",
        "num_layers": 4,
        "hidden_size": 32,
        "ffn_hidden_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 120,
        "max_positions": 64,
        "normalization": "RMSNorm",
        "activation": "silu",
        "gated_linear_unit": True,
        "add_bias_linear": False,
        "untie_embeddings_and_output_weights": True,
    }
    return Model(**(sizes | changes))


def vision(**changes: Any) -> Model:
    sizes: dict[str, Any] = {
        "family": "vit",
        "num_layers": 4,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "activation": "quick_gelu",
        "image_size": 8,
        "patch_size": 4,
        "projector_hidden_size": 32,
    }
    return Model(**(sizes | changes))


def audio(**changes: Any) -> Model:
    sizes: dict[str, Any] = {
        "family": "audio",
        "num_layers": 2,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "num_mel_bins": 5,
        "max_positions": 6,
        "projector_hidden_size": 32,
    }
    return Model(**(sizes | changes))


def plan(
    language_parallel: dict[str, Any],
    images_parallel: dict[str, Any],
    *,
    audio_parallel: dict[str, Any] | None = None,
    micro_size: int = 4,
    fixed: bool = False,
    placement: str | None = None,
    freeze: dict[str, Any] | None = None,
    models: dict[str, Model] | None = None,
    recompute: str = "none",
) -> Plan:
    """A plan of vision (and audio) and language. If `fixed`, each sample has one image; else the number varies."""
    chosen = {"language": language(), "images": vision(), "audio": audio()} | (models or {})
    frozen = freeze or {}
    modules = {
        "language": Module(
            parallel=_parallel(language_parallel),
            model=chosen["language"],
            freeze=frozen.get("language", Freeze()),
            recompute=recompute,
        ),
        "images": _encoder(images_parallel, chosen["images"], 7, IMAGE_TOKENS if fixed else None, frozen.get("images")),
    }
    if audio_parallel is not None:
        modules["audio"] = _encoder(audio_parallel, chosen["audio"], 9, 3 if fixed else None, frozen.get("audio"))
    batch = Batch(global_size=2 * micro_size, micro_size=micro_size, seq_length=32)
    return compile_spec(Spec(batch=batch, modules=modules, placement=placement))


def routed(plan: Plan, topology: dict[str, tuple[str, ...]]) -> Plan:
    """The plan with other edges."""
    return compile_spec(attrs.evolve(plan.to_spec(), topology=topology))


def alone(plan: Plan) -> Plan:
    """The plan of its language module alone, which nothing feeds."""
    spec = plan.to_spec()
    return compile_spec(attrs.evolve(spec, modules={"language": spec.modules["language"]}, topology={}))


def _encoder(parallel: dict[str, Any], model: Model, token: int, tokens: int | None, freeze: Any) -> Module:
    return Module(
        parallel=_parallel(parallel),
        model=model,
        output=Output(tokens_per_sample=tokens),
        special_token_id=token,
        freeze=freeze or Freeze(),
    )


def _parallel(axes: dict[str, Any]) -> Parallel:
    return Parallel(**({"dp": 1} | axes))
