"""The columns of a file of runs, told by their names.

    spec      the file of the run's spec, beside the CSV file
    ms        the measured time of a step, in milliseconds
    GiB       what the fullest rank allocated
    metrics   in the place of `ms`, the file that `executor train --metrics` wrote
    software  a YAML file with what the training software does (work/settings.py); the default if left out
    a path    a value that overrides the spec's: `modules.language.parallel.tp`, `batch.global_size`, `placement`
    software.FIELD  a value that overrides one of the software's

A path is a name with a dot, or a top-level key of the spec. It must exist in the schema of the spec, so that no
misspelt column is ignored. Any other name is the user's own: its cells are kept and not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import attrs

from ...base import codes
from ...base.codes import Code
from ...base.errors import Fault, Faults, Path, PlanError, format_path
from ...base.frozen import frozen
from ...base.suggestions import Suggestions
from ...spec.fields import FieldType, Name, Record, Table, fields_of
from ...spec.spec import SPEC_TYPE, Spec
from ..work.settings import SETTINGS_TYPE

SPEC, SOFTWARE, MS, GIB, METRICS = "spec", "software", "ms", "GiB", "metrics"
GPU = "cluster.gpu"
_TOP_LEVEL = frozenset(name for name, _, _ in fields_of(Spec))
_WHAT_A_FILE_HAS = (
    "name the columns `spec` (the file of a spec, beside this one), paths into the spec that override it row by row, "
    "such as modules.language.parallel.tp, and what was measured: ms, GiB or metrics. To convert another table, write "
    "what its rows have in common as a spec and rename its columns to paths"
)


@frozen
class PathColumn:
    """A column that overrides one value: its name, and the path that it writes."""

    name: str
    path: Path


@frozen
class Columns:
    """The header of a file: its names in order, and those that override the spec or the software's settings."""

    header: tuple[str, ...]
    of_spec: tuple[PathColumn, ...]
    of_software: tuple[PathColumn, ...]


@frozen
class HeaderFault:
    """What is wrong with the header: the index of the cell, and the fault without its place."""

    index: int
    fault: Fault


def columns_of(header: Sequence[str]) -> tuple[Columns, list[HeaderFault]]:
    """The columns that a header names, and everything that is wrong with it."""
    columns = [PathColumn(name, tuple(name.split("."))) for name in dict.fromkeys(header) if _is_path(name)]
    found = Columns(
        header=tuple(header),
        of_spec=tuple(one for one in columns if one.path[0] != SOFTWARE),
        of_software=tuple(one for one in columns if one.path[0] == SOFTWARE),
    )
    if SPEC not in header:
        return found, [HeaderFault(0, _without_spec(header))]
    return found, sorted(_faults(found), key=lambda one: one.index)


def _is_path(name: str) -> bool:
    """Whether a name is a path, though perhaps misspelt. A sentence with a full stop is none."""
    first, *rest = name.split(".")
    if first.strip() in (*_TOP_LEVEL, SOFTWARE):
        return bool(rest) or first in _TOP_LEVEL
    return bool(rest) and not any(character.isspace() for character in name)


def _faults(columns: Columns) -> Iterator[HeaderFault]:
    header = columns.header
    for name, number in Counter(header).items():
        if number > 1:
            second = header.index(name, header.index(name) + 1)
            rule = f"the header names each column once, got {name!r} more than once"
            yield HeaderFault(second, _fault(codes.DUPLICATE_KEY, rule, "rename one of them"))
    known = Suggestions()
    unknown = {one.name: _unknown(one.path, 0, SPEC_TYPE, known) for one in columns.of_spec}
    unknown |= {one.name: _unknown(one.path, 1, SETTINGS_TYPE, known) for one in columns.of_software}
    overlaps = {one.name: _overlap(one, columns) for one in columns.of_spec}
    for name, fault in (*unknown.items(), *overlaps.items()):
        if fault:
            yield HeaderFault(header.index(name), fault)


def _overlap(inner: PathColumn, columns: Columns) -> Fault | None:
    """The fault of a column whose value lies within that of another column."""
    for outer in columns.of_spec:
        if len(outer.path) < len(inner.path) and inner.path[: len(outer.path)] == outer.path:
            rule = f"a value is overridden by one column, got {outer.name} and, within it, {inner.name}"
            return _fault(codes.CONFLICT, rule, "remove one of the two columns")
    return None


def _without_spec(header: Sequence[str]) -> Fault:
    shown = ", ".join(header)[:200] or "nothing"
    if len(header) == 1 and (found := [name for mark, name in ((";", "semicolons"), ("\t", "tabs")) if mark in shown]):
        return _fault(codes.BAD_SYNTAX, f"cells are separated by commas, got {found[0]}", "save the file with commas")
    if header and not any(name in (MS, GIB, METRICS, SOFTWARE) or name.split(".")[0] in _TOP_LEVEL for name in header):
        shown = "other names alone, which are not quoted"  # this may be another file altogether
    return _fault(codes.MISSING_KEY, f"a file of runs has a column `spec`, got {shown}", _WHAT_A_FILE_HAS)


def _fault(code: Code, rule: str, remedy: str) -> Fault:
    return Fault(code, ("header",), rule, remedy)


def _unknown(path: Path, depth: int, kind: FieldType, known: Suggestions) -> Fault | None:
    """What is wrong with a path below its first `depth` keys, whose value is of `kind`; None if the path exists."""
    if depth == len(path):
        return None
    outer, key = path[:depth], path[depth]
    if isinstance(kind, Record):
        kinds = {name: inner for name, _, inner in fields_of(kind.cls)}
        if key in kinds:
            return _unknown(path, depth + 1, kinds[str(key)], known)
        return _unknown_key(kind, outer, str(key), known)
    if isinstance(kind, Table):
        faults = Faults()
        Name().parse(key, path[: depth + 1], faults)
        return _first(faults) or _unknown(path, depth + 1, kind.item, known)
    rule = f"{format_path(outer)} is one value and has no keys, got {format_path(path)}"
    return Fault(codes.UNKNOWN_KEY, path, rule, f"name the column {format_path(outer)}")


def _unknown_key(kind: Record, path: Path, key: str, known: Suggestions) -> Fault:
    """The fault that the spec's own rules find in this key, with their suggestion."""
    faults = Faults(suggestions=known)
    kind.parse({key: None}, path, faults)
    fault = _first(faults, codes.UNKNOWN_KEY)
    assert fault is not None  # noqa: S101  our own bug if not: the key is not a field
    remedy = f"{fault.remedy}, or rename it: a name with a dot is a path into the spec"
    return attrs.evolve(fault, remedy=remedy)


def _first(faults: Faults, code: Code | None = None) -> Fault | None:
    """The first fault that was found, of a code if one is given."""
    try:
        faults.raise_errors()
    except PlanError as error:
        return next(fault for fault in error.faults if code in (None, fault.code))
    return None
