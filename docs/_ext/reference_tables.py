"""Tables that are made from the code when the pages are built, so that they cannot fall behind it.

```{spec-table} Batch      keys of a section of the spec: what they may be, their default, what they mean
```
```{preset-table}          the presets of `model`
```
```{name-table}            what names of other software are here
```
```{code-table} S          the diagnostics whose code starts with S
```
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from planner.base.axes import MAX_SIZE
from planner.base.codes import CODES
from planner.cost.work import settings
from planner.spec import sections, spec
from planner.spec.fields import fields_of
from planner.spec.names import NAMES
from planner.spec.presets import PRESETS

HEADINGS = {  # of docs/spec.md, by the class whose keys stand below
    "Cluster": "'cluster'",
    "Batch": "'batch'",
    "Module": "Each of 'modules'",
    "Parallel": "'parallel' of a module",
    "Model": "'model' of a module",
    "Output": "'output' of a module",
    "Freeze": "'freeze' of a module",
    "Training": "'training'",
}
MOST_SHOWN = 6  # choices of a field; the orders of the axes are more
Cell = str | Sequence[nodes.Node]


def code(text: str) -> nodes.literal:
    return nodes.literal(text, text)


def table(header: Sequence[str], rows: Iterable[Sequence[Cell]], widths: Sequence[int]) -> nodes.table:
    """A docutils table; a cell is text, in which backticks mark code, or nodes."""
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=width) for width in widths]
    group += nodes.thead("", row(header))
    group += nodes.tbody("", *map(row, rows))
    return nodes.table("", group)


def row(cells: Sequence[Cell]) -> nodes.row:
    found = nodes.row()
    for cell in cells:
        found += nodes.entry("", nodes.paragraph("", "", *(marked(cell) if isinstance(cell, str) else cell)))
    return found


def marked(text: str) -> list[nodes.Node]:
    """Text with `code` in backticks, and [a heading of the page] in brackets, which becomes a link."""
    found: list[nodes.Node] = []
    for part in re.split(r"(`[^`]*`|\[[^]]*\])", text):
        inner = part[1:-1]
        if part.startswith("`"):
            found.append(code(inner))
        elif part.startswith("["):
            link = nodes.reference("", "", internal=True, refuri=f"#{nodes.make_id(inner)}")
            link.extend(marked(inner.replace("'", "`")))
            found.append(link)
        elif part:
            found.append(nodes.Text(part))
    return found


def kind(schema: dict[str, Any]) -> str:
    """What a value may be, in words, from its JSON Schema: the same rule that parses it."""
    if "type" in schema:
        return TYPES[schema["type"]](schema)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"mapping: [{HEADINGS[name]}]"
    if "anyOf" in schema:
        return " or ".join(kind(part) for part in schema["anyOf"])
    values = [schema["const"]] if "const" in schema else schema["enum"]
    return f"an order, as `{values[0]}`" if len(values) > MOST_SHOWN else ", ".join(f"`{one}`" for one in values)


def number(schema: dict[str, Any]) -> str:
    word = schema["type"]
    low, high = schema.get("minimum"), schema.get("maximum", MAX_SIZE)
    if low is not None and low == high:
        return f"`{low}`"
    if "exclusiveMinimum" in schema:
        return f"{word}\u00a0>\u00a0{schema['exclusiveMinimum']}"
    if low is None:
        return word
    return f"{word} {low} to {high}" if high < MAX_SIZE else f"{word}\u00a0≥\u00a0{low}"


TYPES: dict[str, Callable[[dict[str, Any]], str]] = {
    "array": lambda schema: f"list of {kind(schema['items'])}",
    "boolean": lambda _: "true or false",
    "integer": number,
    "number": number,
    "object": lambda schema: f"name → {kind(schema['additionalProperties'])}",
    "string": lambda _: "text",
}


def default_of(field: attrs.Attribute[Any]) -> str:
    """The default as a user would write it; a section left out has its own defaults."""
    value = field.default
    if value is attrs.NOTHING:
        return "required"
    if value is None or attrs.has(type(value)):
        return ""
    if isinstance(value, tuple):
        return f"`{'-'.join(map(str, value))}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if isinstance(value, str | int | float) else ""


class SpecTable(SphinxDirective):
    """The keys of one section, which is the name of its class."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        cls = next(getattr(room, name) for room in (sections, spec, settings) if hasattr(room, name))
        rows = [
            ([code(key)], kind(rule.schema({})), default_of(field), field.metadata["doc"])
            for key, field, rule in fields_of(cls)
        ]
        return [table(("key", "value", "default", "meaning"), rows, (16, 26, 14, 44))]


class PresetTable(SphinxDirective):
    """Every preset with the sizes that it sets."""

    def run(self) -> list[nodes.Node]:
        rows = []
        for name, model in PRESETS.items():
            sizes = attrs.asdict(model, recurse=False)
            family = sizes.pop("family")
            written = (f"`{key}: {str(value).lower()}`" for key, value in sizes.items() if value is not None)
            rows.append(([code(name)], f"`{family}`", ", ".join(written)))
        return [table(("preset", "family", "sizes"), rows, (22, 10, 68))]


class NameTable(SphinxDirective):
    """Names of other software, by what is said of them."""

    def run(self) -> list[nodes.Node]:
        by_remedy: dict[str, list[str]] = {}
        for name, carried in NAMES.items():
            by_remedy.setdefault(carried.remedy, []).append(f"`{name}`")
        rows = [(", ".join(names), remedy) for remedy, names in by_remedy.items()]
        return [table(("there", "here"), rows, (50, 50))]


class CodeTable(SphinxDirective):
    """The diagnostics whose code starts with the argument: code, summary, explanation."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        start = self.arguments[0]
        rows = []
        for found in CODES.values():
            if found.name.startswith(start):
                summary = nodes.strong(found.summary, found.summary)
                explanation = " ".join(found.explanation.split())
                rows.append(([code(found.name)], [summary, nodes.Text(": "), *marked(explanation)]))
        if not rows:
            raise self.error(f"no code starts with {start}")
        return [table(("code", "meaning"), rows, (10, 90))]


def setup(app: Sphinx) -> dict[str, Any]:
    directives = {
        "spec-table": SpecTable,
        "preset-table": PresetTable,
        "name-table": NameTable,
        "code-table": CodeTable,
    }
    for name, directive in directives.items():
        app.add_directive(name, directive)
    return {"parallel_read_safe": True}
