"""What a spec with faults would be without them, so that faults of later passes can be reported beside them.

A misspelt key takes its meaning, and any other value that is wrong is dropped. Whoever looks for further faults must
leave out those that follow from what was dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..base.errors import Faults, Path
from ..base.suggestions import Suggestions
from .fields import INVALID, FieldType, Integer, Record, Table, fields_of, meant_by
from .spec import SPEC_TYPE, Spec


class Mended:
    """What is left of a spec's plain data.

    Attributes:
        spec: the spec; None if too much is wrong.
        dropped: the paths of what was dropped.
        renamed: for each key that was taken for another, the path that is meant -> the path that was written.
    """

    def __init__(self, data: Any) -> None:
        self.dropped: list[Path] = []
        self.renamed: dict[Path, Path] = {}
        self._suggestions = Suggestions()  # for all keys together: their cost is bounded
        found = self._kept(SPEC_TYPE, data, ())
        self.spec: Spec | None = None if found is INVALID else found

    def written(self, path: Path) -> Path:
        """The path as it was written: a key that was taken for another has its own name."""
        for end in range(len(path), 0, -1):
            if found := self.renamed.get(path[:end]):
                return (*found, *path[end:])
        return path

    def _kept(self, kind: FieldType, value: Any, path: Path) -> Any:
        """The value of this kind that is left of plain data; INVALID if there is none."""
        kept = value
        if isinstance(value, Mapping) and isinstance(kind, Record):
            kept = self._kept_record(kind, value, path)
        elif isinstance(value, Mapping) and isinstance(kind, Table):
            entries = {
                key: INVALID if kind.is_misplaced(key, part) else self._kept(kind.item, part, (*path, str(key)))
                for key, part in value.items()
            }
            kept = {key: part for key, part in entries.items() if part is not INVALID}
            self.dropped += [(*path, str(key)) for key, part in entries.items() if part is INVALID]
        return INVALID if kept is INVALID else kind.parse(kept, path, Faults())

    def _kept_record(self, kind: Record, value: Mapping[Any, Any], path: Path) -> Any:
        kept: dict[str, Any] = {}
        given = self._named(kind, value, path)
        for name, field, inner in fields_of(kind.cls):
            if name not in given or (given[name] is None and field.default is None):
                continue
            part = self._kept(inner, given[name], (*path, name))
            if part is INVALID:
                self.dropped.append((*path, name))
            else:
                kept[name] = part
        for name, field, inner in fields_of(kind.cls):
            if name not in kept and field.default is attrs.NOTHING:
                if not isinstance(inner, Integer):
                    return INVALID
                kept[name] = 1
                self.dropped.append((*path, name))
        return kept

    def _named(self, kind: Record, value: Mapping[Any, Any], path: Path) -> dict[str, Any]:
        """The parts of a record by the keys that they are meant for, if they can be theirs."""
        kinds = {name: inner for name, _, inner in fields_of(kind.cls)}
        found = {key: part for key, part in value.items() if key in kinds}
        for key, part in value.items():
            if key in kinds:
                continue
            one = meant_by(str(key), value, kind.cls, self._suggestions)
            is_taken = one.has_its_value and one.ours not in found
            if is_taken and kinds[one.ours].parse(part, (), Faults()) is not INVALID:
                found[one.ours] = part
                self.renamed[(*path, one.ours)] = (*path, str(key))
            elif one.ours:
                self.dropped.append((*path, one.ours))
        return found
