"""JSON Schema of the spec, from the same rules that parse it: editors complete keys and mark mistakes."""

from __future__ import annotations

from typing import Any

from .spec import SPEC_TYPE


def spec_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of a spec."""
    definitions: dict[str, Any] = {}
    root = SPEC_TYPE.schema(definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mimo spec",
        **root,
        "$defs": definitions,
    }
