"""From a row of a file of runs to its counted work: the spec that it names, with the row's values in place of its own.

    spec,modules.language.parallel.tp,batch.global_size,ms
    llava.yaml,2,64,812          the spec in llava.yaml with tp 2 and a global batch of 64
    llava.yaml,4,,655            with tp 4, and the global batch that llava.yaml says

Values obey the rules of the spec. Each file is read once, and each distinct set of values is compiled once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import attrs

from ...base import codes
from ...base.errors import Fault, Faults, Path, PlanError
from ...passes.compile import compile_spec
from ...plan import Plan
from ...plan_file import read_plan_or_spec
from ...spec.fields import FieldType, fields_of, show, suggest
from ...spec.loader import MAX_BYTES, check_size, file_name, parse_document, read_bytes
from ...spec.spec import SPEC_TYPE, Spec
from ..timing.hardware import is_hardware_file
from ..timing.workload import Workload, workload_of
from ..work.settings import EXECUTOR, SETTINGS_TYPE, Settings
from .cells import CellError, Row, check_width, path_in_cell, spec_value
from .columns import GPU, METRICS, SOFTWARE, SPEC, PathColumn
from .csv_file import Runs

_DEFAULTS = Settings()


class WorkOfRows[T]:
    """What `make` makes of the work of a file's rows. Nothing is read, compiled or made twice."""

    def __init__(self, runs: Runs, make: Callable[[Workload], T]) -> None:
        self._runs = runs
        self._files = runs.files
        self._make = make
        self._read_spec = _once(read_plan_or_spec)
        self._read_software = _once(_read_software)
        self._made: dict[tuple[tuple[str, ...], Settings], T | PlanError] = {}

    def of(self, row: Row) -> T:
        """What is made of a row's work. Raises CellError, PlanError, and what `make` raises."""
        check_width(row)
        settings = self._settings(row)
        columns = self._runs.columns.of_spec
        key = (row.text(SPEC), *(row.text(column.name) for column in columns)), settings
        if key not in self._made:
            self._made[key] = self._new(row, settings)
        made = self._made[key]
        if isinstance(made, PlanError):
            raise self._placed(row, made, columns)
        return made

    def _new(self, row: Row, settings: Settings) -> T | PlanError:
        base = self._read_spec(path_in_cell(row, SPEC, self._files))
        overrides = _written(row, self._runs.columns.of_spec)
        try:
            plan = _compiled(row, base, overrides)
        except PlanError as error:
            return error
        if missing := [module.name for module in plan.modules if module.model is None]:
            rule = f"every module says its sizes; no model is given for {', '.join(missing)}"
            raise CellError(SPEC, rule, "add `model:` with a preset or sizes to the spec", codes.MISSING_KEY)
        if plan.gpu is not None and is_hardware_file(plan.gpu):
            self._files.check(row, GPU if row.text(GPU) else SPEC, plan.gpu)
        return self._make(workload_of(plan, settings))

    def _settings(self, row: Row) -> Settings:
        """What the row says of the software; else the executor's if it names metrics, and the defaults if not."""
        settings = EXECUTOR if row.text(METRICS) else _DEFAULTS
        if row.text(SOFTWARE):
            settings = self._read_software(path_in_cell(row, SOFTWARE, self._files))
        overrides = _written(row, self._runs.columns.of_software)
        if not overrides:
            return settings
        try:
            return cast("Settings", _overridden(row, settings, SETTINGS_TYPE, overrides, prefix=(SOFTWARE,)))
        except PlanError as error:
            raise self._placed(row, error, self._runs.columns.of_software) from None

    def _placed(self, row: Row, error: PlanError, columns: Sequence[PathColumn]) -> PlanError:
        """The faults of a row's values, each at the cell that it concerns; at the spec's if it concerns none alone.

        Without values of the row they are faults of the file, and have their places there.
        """
        overrides = _written(row, columns)
        if not overrides:
            return error

        def placed(fault: Fault) -> Fault:
            concerned = [one.name for one in overrides if one.path == fault.path[: len(one.path)]]
            within = [one.name for one in overrides if fault.path and one.path[: len(fault.path)] == fault.path]
            (column, *_) = [*concerned, *within, SPEC]
            return attrs.evolve(fault, mark=self._runs.mark(row.line, column))

        return PlanError(sorted(map(placed, error.faults), key=_column_number), error.num_left_out)


def _column_number(fault: Fault) -> int:
    return fault.mark.column if fault.mark else 0


def _once[T](read: Callable[[str], T]) -> Callable[[str], T]:
    """The function, called once for each file; a fault of the file is raised each time."""
    found: dict[str, T | PlanError] = {}

    def read_once(path: str) -> T:
        if path not in found:
            try:
                found[path] = read(path)
            except PlanError as error:
                found[path] = error
        result = found[path]
        if isinstance(result, PlanError):
            raise result
        return result

    return read_once


def _read_software(path: str) -> Settings:
    """The settings in a YAML file. Raises PlanError."""
    if_empty = ("a file of software has a setting or more; it is empty", "write a setting, or leave the cell empty")
    try:
        data = read_bytes(path, MAX_BYTES)
        check_size(data, path)
        return cast("Settings", parse_document(data, file_name(path), SETTINGS_TYPE, if_empty)[0])
    except PlanError as error:
        raise error.of(SOFTWARE) from None


def _written(row: Row, columns: Sequence[PathColumn]) -> list[PathColumn]:
    """The columns in which the row has a value; an empty cell leaves the one of the file."""
    return [column for column in columns if row.text(column.name)]


def _compiled(row: Row, base: Plan | Spec, overrides: Sequence[PathColumn]) -> Plan:
    if isinstance(base, Spec):
        return compile_spec(_overridden(row, base, SPEC_TYPE, overrides) if overrides else base)
    if overrides:
        rule = f"columns override a spec, and {row.text(SPEC)} is a compiled plan"
        raise CellError(SPEC, rule, "name the spec that it was compiled from", codes.CONFLICT)
    return base


def _overridden(
    row: Row, base: Spec | Settings, kind: FieldType, overrides: Sequence[PathColumn], prefix: Path = ()
) -> Any:
    """What a file says, with the values of a row. Raises CellError, and PlanError with every value at fault.

    Args:
        row: the row.
        base: what the file says.
        kind: the field type of the whole.
        overrides: the columns in which the row has a value.
        prefix: the part of their paths that stands for the whole.
    """
    values = _Values()
    for column in overrides:
        if isinstance(base, Spec):
            _check_module(row, base, column)
        values.put(column.path[len(prefix) :], spec_value(row, column.name))
    try:
        return values.evolve(base)
    except PlanError:  # it has the first fault only
        faults = Faults()
        kind.parse(values.merge(base), prefix, faults)
        faults.raise_errors()
        raise  # unreachable: the same rules found a fault


def _check_module(row: Row, spec: Spec, column: PathColumn) -> None:
    """Raise CellError if the path leads into a module that the spec does not have."""
    section, *rest = column.path
    if section == "modules" and rest and rest[0] not in spec.modules:
        names = list(spec.modules)
        rule = f"{row.text(SPEC)[:64]} has the modules {', '.join(names)}, got {show(rest[0])}"
        remedy = _suggestion(str(rest[0]), tuple(names)) + "rename the column, or leave the cell empty"
        raise CellError(column.name, rule, remedy, codes.UNKNOWN_KEY)


_suggestion = lru_cache(maxsize=1024)(suggest)  # every row of a file has the same columns


class _Values(dict[Any, Any]):
    """Values by key, those of a section in another such mapping; what a file says is not among them."""

    def put(self, path: Path, value: Any) -> None:
        """Note the value of a path."""
        *outer, last = path
        section = self
        for key in outer:
            section = section.setdefault(key, _Values())
        section[last] = value

    def evolve(self, base: Any) -> Any:
        """A section of a spec with these values. Raises PlanError with the first fault."""
        is_class = attrs.has(type(base))
        outer = {} if base is None or is_class else base
        values = {
            key: value.evolve(getattr(base, key) if is_class else outer.get(key))
            if isinstance(value, _Values)
            else value
            for key, value in self.items()
        }
        return _evolved(tuple(values.items()), base) if is_class else {**outer, **values}

    def merge(self, base: Any) -> dict[Any, Any]:
        """The same as plain data, for the rules to parse."""
        if attrs.has(type(base)):
            base = {name: getattr(base, name) for name, _, _ in fields_of(type(base))}
        outer = base or {}
        values = {
            key: value.merge(outer.get(key)) if isinstance(value, _Values) else value for key, value in self.items()
        }
        return {**outer, **values}


def _evolved(values: tuple[tuple[str, Any], ...], base: Any) -> Any:
    """A frozen section with other values. Rows of a sweep have most of their sections in common."""
    try:
        return _evolved_once(values, tuple(type(value) for _, value in values), base)
    except TypeError:  # a list has no hash
        return attrs.evolve(base, **dict(values))


@lru_cache(maxsize=1024)
def _evolved_once(values: tuple[tuple[str, Any], ...], types: tuple[type, ...], base: Any) -> Any:  # noqa: ARG001
    # The types are part of the key: True equals 1, and only one of them is an integer to the rules.
    return attrs.evolve(base, **dict(values))
