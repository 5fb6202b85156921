"""The JSON Schema of specs, by which editors complete keys and mark mistakes. The types that parse specs make it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .presets import PRESETS
from .sections import MIMO_LANGUAGE_MODULE_KEY
from .spec import SPEC_TYPE


def spec_schema(gpus: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec.

    Args:
        gpus: names of GPUs that editors offer; a file is as good.
    """
    definitions: dict[str, Any] = {}
    root = SPEC_TYPE.schema(definitions)
    for section, key, names in (("Model", "preset", [*PRESETS]), ("Cluster", "gpu", [*gpus])):
        definitions[section]["properties"][key]["examples"] = names
    definitions["Spec"]["properties"]["modules"]["required"] = [MIMO_LANGUAGE_MODULE_KEY]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mimo spec",
        **root,
        "$defs": definitions,
    }
