"""A spec as the YAML text that a user could have written: what has its default value is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from .fields import FieldType, Record, Table, fields_of

_WIDTH = 100
_NAMED = 4  # keys in a comment
_KEY = re.compile(r"( *)([\w-]+):(.*)")


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


def commented(text: str, kind: FieldType, spec: Any, written: Any) -> str:
    """The text of a spec, with a comment on every line with keys whose values are not those that were written."""
    chosen = set(_chosen(_written(kind, spec), _written(kind, written)))
    lines: list[str] = []
    path: tuple[str, ...] = ()
    num_open = 0  # brackets of a value that goes on in the next line
    for line in text.splitlines():
        found = None if num_open else _KEY.match(line)
        num_open += sum(map(line.count, "[{")) - sum(map(line.count, "]}"))
        names: list[str] = []
        if found:
            path = (*path[: len(found[1]) // 2], found[2])
            is_whole = bool(found[3])  # else its parts have lines of their own
            names = sorted(at[-1] for at in chosen if is_whole and path in (at, at[:-1]))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"{line}  # chosen: {', '.join(names[:_NAMED])}{more}" if names else line)
    return "\n".join(lines) + "\n"


def _chosen(data: Any, before: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of plain values that are not the same before."""
    if not isinstance(data, dict):
        if data != before:
            yield path
        return
    for key, value in data.items():
        yield from _chosen(value, before.get(key) if isinstance(before, dict) else None, (*path, str(key)))
