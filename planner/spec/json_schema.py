"""The JSON Schema of specs, by which editors complete keys and mark mistakes. The types that parse specs make it."""

from __future__ import annotations

from typing import Any

from .spec import SPEC_TYPE


def spec_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a spec."""
    definitions: dict[str, Any] = {}
    root = SPEC_TYPE.schema(definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mimo spec",
        **root,
        "$defs": definitions,
    }
