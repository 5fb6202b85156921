"""Texts written for a terminal, with the arrows and micro signs that a plain terminal may not have."""

from __future__ import annotations

import re

_MICROSECONDS = re.compile(r"(?<=\d )us\b")


def typeset(text: str) -> str:
    """`images->language: 40 us` becomes `images → language: 40 µs`."""
    return _MICROSECONDS.sub("µs", re.sub(r"\s*->\s*", " → ", text))
