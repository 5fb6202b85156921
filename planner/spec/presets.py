"""Sizes of models: the presets, and a model with every size filled in.

The presets have the sizes of the published configurations of lmsys/vicuna-7b-v1.5 (with LLaVA-1.5's padded
vocabulary), openai/clip-vit-large-patch14-336 and openai/whisper-base.
"""

from __future__ import annotations

from typing import Any

import attrs

from ..base import codes
from ..base.errors import Faults, Path, PlanError
from .fields import suggest
from .sections import Model

PRESETS: dict[str, Model] = {
    "vicuna-7b": Model(
        family="gpt",
        num_layers=32,
        hidden_size=4096,
        ffn_hidden_size=11008,
        num_attention_heads=32,
        normalization="RMSNorm",
        activation="silu",
        gated_linear_unit=True,
        add_bias_linear=False,
        untie_embeddings_and_output_weights=True,
        vocab_size=32256,
        max_positions=4096,
    ),
    "clip-vit-l-14-336": Model(
        family="vit",
        num_layers=23,  # LLaVA takes the output of the last layer but one
        hidden_size=1024,
        ffn_hidden_size=4096,
        num_attention_heads=16,
        activation="quick_gelu",
        image_size=336,
        patch_size=14,
        projector_hidden_size=4096,
    ),
    "whisper-base": Model(
        family="audio",
        num_layers=6,
        hidden_size=512,
        ffn_hidden_size=2048,
        num_attention_heads=8,
        num_mel_bins=80,
        max_positions=3000,  # frames of 30 seconds; the convolutions halve them to 1500 tokens
    ),
}

_REQUIRED = {
    "gpt": ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_positions"),
    "vit": ("num_layers", "hidden_size", "num_attention_heads", "image_size", "patch_size"),
    "audio": ("num_layers", "hidden_size", "num_attention_heads", "num_mel_bins", "max_positions"),
}
_OF_FAMILIES = {
    "vocab_size": ("gpt",),
    "untie_embeddings_and_output_weights": ("gpt",),
    "num_moe_experts": ("gpt",),
    "moe_router_topk": ("gpt",),
    "max_positions": ("gpt", "audio"),
    "image_size": ("vit",),
    "patch_size": ("vit",),
    "num_mel_bins": ("audio",),
    "projector_hidden_size": ("vit", "audio"),
}


def fill_in(model: Model, path: Path, faults: Faults) -> Model | None:
    """The model with every size filled in: its own, else its preset's, else the default. None after a fault."""
    base = Model()
    if model.preset is not None:
        if model.preset not in PRESETS:
            rule = f"preset is one of {', '.join(PRESETS)}; got {model.preset!r}"
            remedy = suggest(model.preset, PRESETS, faults.suggestions) + "use one of these, or a family with its sizes"
            faults.add(codes.BAD_CHOICE, (*path, "preset"), rule, remedy)
            return None
        base = PRESETS[model.preset]
    written = {name: value for name, value in attrs.asdict(model, recurse=False).items() if value is not None}
    merged = attrs.evolve(base, **written)
    if not _check_family(merged, base, path, faults):
        return None
    _check_heads(merged, path, faults)
    try:
        return attrs.evolve(merged, **_defaults(merged))
    except PlanError as error:  # a size that follows from another is out of range
        faults.extend(error, path)
        return None


def _check_family(model: Model, base: Model, path: Path, faults: Faults) -> bool:
    """Check that the family is known, that the sizes it needs are there, and that no size belongs to another family."""
    if model.family is None:
        faults.add(
            codes.MISSING_SIZE,
            path,
            "a model has a preset or a family; found neither",
            "add `preset:` or `family:`",
        )
        return False
    if base.family is not None and model.family != base.family:
        rule = f"the family of preset {model.preset} is {base.family}, got {model.family}"
        faults.add(codes.CONFLICT, (*path, "family"), rule, "remove `family:` or choose another preset")
        return False
    missing = [name for name in _REQUIRED[model.family] if getattr(model, name) is None]
    foreign = [
        name
        for name, families in _OF_FAMILIES.items()
        if model.family not in families and getattr(model, name) is not None
    ]
    for name in missing:
        rule = f"family {model.family} has {', '.join(_REQUIRED[model.family])}; {name} is missing"
        faults.add(codes.MISSING_SIZE, path, rule, f"add `{name}:`")
    for name in foreign:
        rule = f"{name} belongs to family {' and '.join(_OF_FAMILIES[name])}, not to {model.family}"
        faults.add(codes.FOREIGN_SIZE, (*path, name), rule, f"remove `{name}:`")
    return not missing and not foreign


def _check_heads(model: Model, path: Path, faults: Faults) -> None:
    """Check that hidden_size gives a whole width of a head, unless the width is written."""
    hidden, heads = model.hidden_size or 0, model.num_attention_heads or 1
    if model.kv_channels is None and hidden % heads:
        rule = f"hidden_size % num_attention_heads = {hidden} % {heads} = 0, got {hidden % heads}"
        faults.add(codes.WIDTHS, (*path, "hidden_size"), rule, "change one of them, or write kv_channels")


def _defaults(model: Model) -> dict[str, Any]:
    """The default of every size that was left out. megatron-core's TransformerConfig has the same defaults."""
    hidden, heads = model.hidden_size or 0, model.num_attention_heads or 1
    defaults: dict[str, Any] = {
        "ffn_hidden_size": 4 * hidden,
        "num_query_groups": heads,
        "kv_channels": max(1, hidden // heads),  # 0 is a fault of its own, which is said
        "normalization": "LayerNorm",
        "activation": "gelu",
        "gated_linear_unit": False,
        "add_bias_linear": True,
    }
    if model.family == "gpt":
        defaults["untie_embeddings_and_output_weights"] = False
    if model.num_moe_experts is not None:
        defaults["moe_router_topk"] = min(2, model.num_moe_experts)
    return {name: value for name, value in defaults.items() if getattr(model, name) is None}


def padded_vocab_size(model: Model, tp: int) -> int:
    """The size of a language model's vocabulary, padded to a multiple of 128 * tp as megatron-core's users pad it."""
    multiple = 128 * tp
    return -(-(model.vocab_size or 1) // multiple) * multiple
