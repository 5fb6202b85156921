"""Report -> HTML. The page's parts are files beside this one; they are put into one, with the content as JSON."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files

import attrs

from .content import Report

STYLES = ("page.css",)
_SCRIPTS = "dom overview memory ranks graph axis strips timeline main"  # in this order: each may use those before it
SCRIPTS = tuple(f"{name}.js" for name in _SCRIPTS.split())


def render_page(report: Report) -> str:
    """The whole page: no other file and no address is needed to show it."""
    slots = {
        "title": escape(report.title),
        "style": "\n".join(map(_part, STYLES)),
        "content": embedded(report),
        "script": "\n".join(map(_part, SCRIPTS)),
    }
    page = _part("page.html")
    before, *rest = page.split("{{")
    found = [before]
    for piece in rest:
        slot, _, after = piece.partition("}}")
        found += [slots[slot], after]
    return "".join(found)


def embedded(report: Report) -> str:
    """JSON that is safe inside a script element: no text of a user can end it or begin a comment."""
    text = json.dumps(attrs.asdict(report), separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return (files(__package__) / "page" / name).read_text(encoding="utf-8")
