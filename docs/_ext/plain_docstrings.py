"""Docstrings of this project are plain text with `code` in backticks; this makes valid reStructuredText of them.

Characters that only mean something in reStructuredText are escaped, indented examples become code, and the classes of
a spec list their fields, with the documentation that stands beside each field.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import attrs
from sphinx.application import Sphinx

from planner.spec.fields import fields_of

_SPECIAL = re.compile(r"([*|\\]|(?<=\w)_(?!\w)|(?<=\bfile):)")  # `file:line` would be taken for an address


def plain(line: str) -> str:
    """One line with everything escaped outside backticks, and code in double ones."""
    parts = line.split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner
        return line
    return "".join(f"``{part}``" if at % 2 else _SPECIAL.sub(r"\\\1", part) for at, part in enumerate(parts))


def rewrite(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Handler of autodoc-process-docstring; napoleon reads the sections (Args, Raises ...) after it."""
    del app, name, options
    found: list[str] = []
    in_code = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        after_blank = bool(found) and not found[-1].strip()
        if line.strip():
            in_code = in_code and indent >= 4
            starts = not in_code and indent >= 4 and after_blank and _ends_prose(found)
            if starts:
                found[-1:] = ["", "::", ""]
                in_code = True
        found.append(line if in_code or not line.strip() else plain(line))
    found = one_name_each(found)
    if what == "class" and (fields := list(fields_of(obj)) if hasattr(obj, "__attrs_attrs__") else []):
        found += ["", "Attributes:", *(f"    {key}: {plain(field.metadata['doc'])}." for key, field, _ in fields), ""]
    if what == "class":
        found += ["", *(f":ivar {name}: {plain(doc)}" for name, doc in cached_of(obj)), ""]
    lines[:] = found


def cached_of(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Cached properties with the first line of their docs: attrs takes them out of a class with slots."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    for node in tree.body if isinstance(tree, ast.ClassDef) else ():
        if isinstance(node, ast.FunctionDef) and "cached_property" in map(ast.unparse, node.decorator_list):
            doc = ast.get_docstring(node)
            if doc and not node.name.startswith("_"):
                yield node.name, doc.partition("\n\n")[0].replace("\n", " ")


_SEVERAL = re.compile(r"    (\w+(?:, \w+)+)(: .*)")


def one_name_each(lines: list[str]) -> list[str]:
    """Entries of a section that describe several names at once, `src, dst: ...`, as an entry for each name."""
    found: list[str] = []
    at = 0
    while at < len(lines):
        several = _SEVERAL.fullmatch(lines[at])
        end = at + 1
        while several and end < len(lines) and lines[end].startswith(" " * 8):
            end += 1
        names = several[1].split(", ") if several else [None]
        for name in names:
            found.append(f"    {name}{several[2]}" if several else lines[at])
            found += lines[at + 1 : end]
        at = end
    return found


def _ends_prose(lines: list[str]) -> bool:
    """Whether the last line with text is at the margin and opens no section: what follows, indented, is an example."""
    last = next((line for line in reversed(lines) if line.strip()), "")
    return bool(last) and not last.startswith(" ") and not re.fullmatch(r"[A-Z]\w+:", last)


def signature(app: Sphinx, what: str, name: str, obj: Any, *_: Any) -> tuple[str, str] | None:
    """Of a class of the spec: its keys with their defaults. The types stand in the list of its fields."""
    del app, name
    fields = list(fields_of(obj)) if what == "class" and hasattr(obj, "__attrs_attrs__") else []
    if not fields:
        return None
    shown = []
    for key, field, _ in fields:
        if field.default is attrs.NOTHING:
            shown.append(key)
        else:
            simple = field.default is None or isinstance(field.default, str | int | float)
            shown.append(f"{key}={field.default!r}" if simple else f"{key}=...")
    return f"(*, {', '.join(shown)})", ""


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", rewrite, priority=400)  # napoleon's is 500
    return {"parallel_read_safe": True}
