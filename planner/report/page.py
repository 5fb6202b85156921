"""Report -> HTML. The parts of the page are files beside this one; with the content as JSON they become one page."""

from __future__ import annotations

import json
import re
from html import escape
from importlib.resources import files
from typing import Any

import attrs

from .content import Report

STYLES = ("page.css",)
_SCRIPTS = "dom overview memory ranks graph axis strips timeline main"  # each may use those before it
SCRIPTS = tuple(f"{name}.js" for name in _SCRIPTS.split())
_DOC_COMMENT = re.compile(r"^ */\*\*(?:(?!\*/).)*\*/\n", flags=re.MULTILINE | re.DOTALL)  # alone on its lines


def render_page(report: Report) -> str:
    """The whole page, which needs no other file and no address to be shown."""
    slots = {
        "title": escape(report.title),
        "style": "\n".join(map(_part, STYLES)),
        "content": embedded(report),
        "script": "\n".join(map(_script, SCRIPTS)),
    }
    before, *rest = _part("page.html").split("{{")
    found = [before]
    for piece in rest:
        slot, _, after = piece.partition("}}")
        found += [slots[slot], after]
    return "".join(found)


def embedded(report: Report) -> str:
    """JSON that is safe inside a script element: no text of a user can end the element or begin a comment."""
    text = json.dumps(report, default=_fields, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _fields(part: attrs.AttrsInstance) -> dict[str, Any]:
    return attrs.asdict(part, recurse=False)  # whose own parts json asks for, and whose columns it writes as they are


def _script(name: str) -> str:
    """A script without its documentation, whose types only editors and the type checker read: a fifth of its bytes."""
    return _DOC_COMMENT.sub("", _part(name))


def _part(name: str) -> str:
    return (files(__package__) / "page" / name).read_text(encoding="utf-8")
