"""The known word that is closest to a misspelt one, at a bounded cost for all misspelt words of an input together.

difflib's time grows with the third power of the words' lengths. A document of one misspelt key is helped; one of sixty
thousand unknown keys is no spec, and its author needs the first few suggestions at most.
"""

from __future__ import annotations

from collections.abc import Iterable

MAX_STEPS = 100_000  # characters compared, about: the suggestions of 150 usual words
_LONGEST = 64  # characters of a word that count
_CLOSE = 0.6  # difflib's own default


class Suggestions:
    """Finds close words until its steps are used up.

    Attributes:
        left: the steps that are left.
    """

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self.left = steps

    def closest(self, word: str, known: Iterable[str]) -> str | None:
        """The known word that is most like `word`, whatever its case; None if none is close, or no step is left."""
        if self.left <= 0:
            return None
        from difflib import SequenceMatcher  # noqa: PLC0415  needed only once something is wrong

        matcher: SequenceMatcher[str] = SequenceMatcher()
        sought = word[:_LONGEST].lower()
        matcher.set_seq2(sought)
        best: tuple[float, str] | None = None
        for name in known:
            spelt = name[:_LONGEST].lower()
            matcher.set_seq1(spelt)
            self.left -= len(spelt) + len(sought)
            if matcher.real_quick_ratio() >= _CLOSE and matcher.quick_ratio() >= _CLOSE:
                self.left -= len(spelt) * len(sought)
                likeness = matcher.ratio()
                if likeness >= _CLOSE and (best is None or (likeness, spelt) > (best[0], best[1].lower())):
                    best = likeness, name
            if self.left <= 0:
                break
        return best[1] if best else None
