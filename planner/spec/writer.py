"""A spec as the YAML text that a user could have written: what has its default value is left out."""

from __future__ import annotations

from typing import Any

import yaml

from .fields import FieldType, Record, Table, fields_of

_WIDTH = 100


class _Dumper(yaml.SafeDumper):
    """Quotes what PyYAML would write plain, and the reader of specs, as YAML 1.2, takes for a number."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        float(value)
    except ValueError:
        return dumper.represent_str(value)
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="'")


_Dumper.add_representer(str, _text)


def spec_yaml(kind: FieldType, spec: Any) -> str:
    """The text of a spec, whose type is `kind`: `parse_spec` makes an equal spec of it again."""
    data = {"schema": spec.schema} | _written(kind, spec)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=_WIDTH, allow_unicode=True)


def _written(kind: Any, value: Any) -> Any:
    """The plain data of a value, without what is left at its default."""
    if isinstance(kind, Record):
        return {
            name: _written(inner, part)
            for name, field, inner in fields_of(kind.cls)
            if (part := getattr(value, name)) is not None and part != field.default
        }
    if isinstance(kind, Table):
        return {name: _written(kind.item, part) for name, part in value.items()}
    return kind.encode(value)
