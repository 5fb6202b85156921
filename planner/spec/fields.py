"""Types of fields: what a value may be, said once and used in four ways.

A field type parses plain data (from YAML, JSON or Python) and collects every fault; checks the values of an object
that is built in Python; encodes a value as plain data again; and describes itself as JSON Schema. Every field of the
spec's classes is declared with `field`, which keeps its type in the attrs metadata.

    @frozen(kw_only=True)
    class Batch:
        micro_size: int = field(Integer(1), doc="samples per microbatch")
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import permutations
from typing import Any, Protocol

import attrs

from ..base import codes
from ..base.axes import DEFAULT_ORDER, MAX_SIZE, format_order, parse_order
from ..base.errors import Faults, Path, PlanError, format_key, format_path
from ..base.frozen import frozen
from ..base.frozenmap import FrozenMap
from ..base.suggestions import Suggestions

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_MAX_SHOWN = 48
_FIELDS: dict[type[Any], tuple[tuple[str, attrs.Attribute[Any], FieldType], ...]] = {}  # by fields_of


class _Invalid:
    """What `parse` returns when it has added a fault. It is never stored."""


INVALID = _Invalid()
Schema = dict[str, Any]


class FieldType(Protocol):
    """What the value of a field may be."""

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:
        """The value in the form in which it is stored, or INVALID after at least one fault was added."""

    def encode(self, value: Any) -> Any:
        """The plain data (dict, list, str, int, float, bool) that parses to `value`."""

    def schema(self, definitions: Schema) -> Schema:
        """The JSON Schema of the value. A record adds its own schema to `definitions` and refers to it."""


def show(value: object) -> str:
    """A short printable form of anything that a user may have written. Of a large value only the beginning is read."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > _MAX_SHOWN:
            return text[: _MAX_SHOWN - 3] + "..."
    return text


def _pieces(value: object) -> Iterator[str]:
    """`repr(value)` piece by piece, and without the end of a text that is too long to be shown."""
    if isinstance(value, str | bytes):
        yield repr(value[: _MAX_SHOWN + 1])
    elif type(value) is dict:
        yield "{"
        for i, (key, part) in enumerate(value.items()):
            yield ", " if i else ""
            yield from _pieces(key)
            yield ": "
            yield from _pieces(part)
        yield "}"
    elif type(value) is list:
        yield "["
        for i, part in enumerate(value):
            yield ", " if i else ""
            yield from _pieces(part)
        yield "]"
    else:
        try:
            yield repr(value)
        except ValueError:  # Python refuses to print integers of thousands of digits
            yield "a huge number"


def suggest(word: str, known: Iterable[str], suggestions: Suggestions | None = None) -> str:
    """`did you mean "x"? ` if a known word is close to `word`, whatever its case; otherwise empty.

    Args:
        word: the word that is not known.
        known: the words that are.
        suggestions: those of the input as a whole, if it may have many such words.
    """
    close = (suggestions or Suggestions()).closest(word, known)
    return _did_you_mean(close) if close else ""


def _did_you_mean(word: str) -> str:
    return f'did you mean "{word}"? '


def _named(path: Path) -> str:
    """What a message calls a value: its key and, if the value is part of a list, its index: `tp`, `stages[4]`."""
    start = max((at for at, part in enumerate(path) if isinstance(part, str)), default=0)
    return format_path(path[start:]) if path else "value"


def _wrong_type(value: object, wanted: str, path: Path, faults: Faults, hint: str = "") -> _Invalid:
    kinds = (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a float"),
        (str, "text"),
        (Mapping, "a mapping"),
    )
    kind = next((name for known, name in kinds if isinstance(value, known)), "a list")
    got = "nothing" if value is None else f"{kind}, {show(value)}"
    faults.add(codes.WRONG_TYPE, path, f"expected {wanted}, got {got}", f"write {wanted}{hint}")
    return INVALID


@frozen
class Integer:
    """An integer from `low` to `high`, both included."""

    low: int
    high: int = MAX_SIZE

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            return _wrong_type(value, "an integer", path, faults)
        if self.low <= value <= self.high:
            return int(value)
        rule = f"{self.low} <= {_named(path)} <= {self.high}, got {show(value)}"
        remedy = f"choose a value from {self.low} to {self.high}" if self.low < self.high else f"write {self.low}"
        faults.add(codes.OUT_OF_RANGE, path, rule, remedy)
        return INVALID

    def encode(self, value: Any) -> Any:
        return value

    def schema(self, definitions: Schema) -> Schema:  # noqa: ARG002
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@frozen
class Positive:
    """A number above zero and at most `high`, stored as a float."""

    high: float

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return _wrong_type(value, "a number", path, faults)
        if 0 < value <= self.high:
            return float(value)
        rule = f"0 < {_named(path)} <= {self.high:g}, got {show(value)}"
        faults.add(codes.OUT_OF_RANGE, path, rule, f"choose a number above 0 and at most {self.high:g}")
        return INVALID

    def encode(self, value: Any) -> Any:
        return value

    def schema(self, definitions: Schema) -> Schema:  # noqa: ARG002
        return {"type": "number", "exclusiveMinimum": 0, "maximum": self.high}


@frozen
class Flag:
    """true or false."""

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:
        return value if isinstance(value, bool) else _wrong_type(value, "true or false", path, faults)

    def encode(self, value: Any) -> Any:
        return value

    def schema(self, definitions: Schema) -> Schema:  # noqa: ARG002
        return {"type": "boolean"}


@frozen
class Choice:
    """One of several words."""

    words: tuple[str, ...]

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:
        if isinstance(value, str) and value in self.words:
            return str(value)
        if not isinstance(value, str):
            return _wrong_type(value, "one of " + ", ".join(self.words), path, faults)
        rule = f"{_named(path)} is one of {', '.join(self.words)}; got {show(value)}"
        remedy = suggest(value, self.words, faults.suggestions) + f"use one of {', '.join(self.words)}"
        faults.add(codes.BAD_CHOICE, path, rule, remedy)
        return INVALID

    def encode(self, value: Any) -> Any:
        return value

    def schema(self, definitions: Schema) -> Schema:  # noqa: ARG002
        return {"enum": list(self.words)}


@frozen
class Name:
    """The name of a module."""

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:
        if not isinstance(value, str):
            return _wrong_type(value, "a name", path, faults)
        if _NAME.fullmatch(value):
            return value
        rule = f"a name is a letter, then at most 63 letters, digits, _ or -; got {show(value)}"
        faults.add(codes.BAD_NAME, path, rule, "rename it")
        return INVALID

    def encode(self, value: Any) -> Any:
        return value

    def schema(self, definitions: Schema) -> Schema:  # noqa: ARG002
        return {"type": "string", "pattern": f"^{_NAME.pattern}$"}


@frozen
class Line:
    """Free text of one line, such as the name of a GPU or a hardware file."""

    longest: int = 64

    @property
    def _pattern(self) -> str:
        return rf"[\x20-\x7e]{{1,{self.longest}}}"

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:
        if isinstance(value, str) and re.fullmatch(self._pattern, value):
            return value
        return _wrong_type(value, f"text of 1 to {self.longest} printable ASCII characters", path, faults)

    def encode(self, value: Any) -> Any:
        return value

    def schema(self, definitions: Schema) -> Schema:  # noqa: ARG002
        return {"type": "string", "pattern": f"^{self._pattern}$"}


@frozen
class Order:
    """An order of the dense axes, fastest first: written as `tp-cp-dp-pp`, stored as a tuple of Axis."""

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:
        text = "-".join(map(str, value)) if isinstance(value, tuple) else value  # a tuple is how orders are stored
        if not isinstance(text, str):
            return _wrong_type(value, "an order such as tp-cp-dp-pp", path, faults)
        try:
            return parse_order(text)
        except ValueError:
            rule = f"order is a permutation of {format_order(DEFAULT_ORDER)}, first axis fastest; got {show(text)}"
            remedy = "name each of tp, cp, dp, pp once, joined by -; expert axes follow from them"
            faults.add(codes.BAD_CHOICE, path, rule, remedy)
            return INVALID

    def encode(self, value: Any) -> Any:
        return format_order(value)

    def schema(self, definitions: Schema) -> Schema:  # noqa: ARG002
        return {"enum": ["-".join(names) for names in permutations(DEFAULT_ORDER)]}


@frozen
class Array:
    """A list, stored as a tuple."""

    item: FieldType
    max_items: int = 4096

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:
        if not isinstance(value, list | tuple):
            hint = f": [{show(value)}]" if isinstance(value, str | int) and not isinstance(value, bool) else ""
            return _wrong_type(value, "a list", path, faults, hint)
        if len(value) > self.max_items:
            rule = f"at most {self.max_items} items, got {len(value)}"
            faults.add(codes.OUT_OF_RANGE, path, rule, "shorten the list")
            return INVALID
        parsed = tuple(self.item.parse(part, (*path, i), faults) for i, part in enumerate(value))
        return INVALID if INVALID in parsed else parsed

    def encode(self, value: Any) -> Any:
        return [self.item.encode(part) for part in value]

    def schema(self, definitions: Schema) -> Schema:
        return {"type": "array", "items": self.item.schema(definitions), "maxItems": self.max_items}


@frozen
class Table:
    """A mapping from names to values, stored as a FrozenMap in the order in which it was written."""

    item: FieldType
    max_items: int = 256

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:
        if not isinstance(value, Mapping):
            return _wrong_type(value, "a mapping", path, faults)
        if len(value) > self.max_items:
            rule = f"at most {self.max_items} entries, got {len(value)}"
            faults.add(codes.OUT_OF_RANGE, path, rule, "split the spec, or remove what is not used")
            return INVALID
        entries = [
            (Name().parse(key, (*path, str(key)), faults), self._item(key, part, before, (*path, str(key)), faults))
            for (key, part), before in zip(value.items(), [None, *value], strict=False)
        ]
        return INVALID if any(INVALID in entry for entry in entries) else FrozenMap(entries)

    def is_misplaced(self, key: object, part: object) -> bool:
        """Whether an entry is a key of entries, with a value that is none of one: it stands a level too far out."""
        known = _keys(self.item)
        if isinstance(self.item, Record) and isinstance(part, self.item.cls):
            return False
        return key in known and not (isinstance(part, Mapping) and any(inner in known for inner in part))

    def _item(self, key: object, part: Any, before: object, path: Path, faults: Faults) -> Any:
        """An entry, unless it is misplaced.

        Args:
            before: the name of the entry before it, which it perhaps belongs to; None for the first.
        """
        if self.is_misplaced(key, part):
            rule = f"{show(key)} is a key of one of {format_key(path[-2])}, and must stand inside it"
            under = f", under {show(before)}" if before is not None else ""
            faults.add(codes.UNKNOWN_KEY, path, rule, f"indent it by one level more{under}")
            return INVALID
        return self.item.parse(part, path, faults)

    def encode(self, value: Any) -> Any:
        return {key: self.item.encode(part) for key, part in value.items()}

    def schema(self, definitions: Schema) -> Schema:
        return {
            "type": "object",
            "propertyNames": Name().schema(definitions),
            "additionalProperties": self.item.schema(definitions),
            "maxProperties": self.max_items,
        }


@frozen
class Record:
    """A mapping that becomes an object of an attrs class, whose fields are declared with `field`.

    Attributes:
        cls: the class.
        shorthand: makes the mapping from a boolean that may be written in its place; None if none may.
    """

    cls: type[Any]
    shorthand: Callable[[bool], Mapping[str, Any]] | None = None

    def parse(self, value: Any, path: Path, faults: Faults) -> Any:
        if isinstance(value, self.cls):
            return value
        if self.shorthand and isinstance(value, bool):
            value = self.shorthand(value)
        fields = {name: field for name, field, _ in fields_of(self.cls)}
        if not isinstance(value, Mapping):
            wanted = "true, false or a mapping" if self.shorthand else "a mapping"
            return _wrong_type(value, wanted, path, faults, f" with the keys {', '.join(fields)}")
        found = Faults(suggestions=faults.suggestions)
        meant = set()  # what a fault of another name tells to write is not missing as well
        for key in value:
            if key not in fields:
                where = format_key(path[-1]) if path else f"the {self.cls.__name__.lower()}"
                one = meant_by(str(key), value, self.cls, faults.suggestions)
                known = "" if one.is_sure else f", which has {', '.join(fields)}"
                found.add(codes.UNKNOWN_KEY, (str(key),), f"{show(key)} is not a key of {where}{known}", one.remedy)
                meant.add(one.ours)
        wanted_fields = {name: field for name, field in fields.items() if name in value or name not in meant}
        arguments = {name: self._parse_field(field, value, found) for name, field in wanted_fields.items()}
        if not found.has_errors:
            try:
                return self.cls(**{name: part for name, part in arguments.items() if part is not INVALID})
            except PlanError as error:
                found.extend(error)
        try:
            found.raise_errors()
        except PlanError as error:
            faults.extend(error, path)
        return INVALID

    @staticmethod
    def _parse_field(field: attrs.Attribute[Any], value: Mapping[str, Any], found: Faults) -> Any:
        """The parsed value of a field; INVALID, without a fault, if the default of the class applies."""
        name = field.name
        if name not in value:
            if field.default is attrs.NOTHING:
                doc = field.metadata["doc"]
                found.add(codes.MISSING_KEY, (), f"{name} is required ({doc})", f"add `{name}:`")
            return INVALID
        if value[name] is None and field.default is None:
            return INVALID
        return field.metadata["kind"].parse(value[name], (name,), found)

    def encode(self, value: Any) -> Any:
        parts = ((name, kind, getattr(value, name)) for name, _, kind in fields_of(self.cls))
        return {name: kind.encode(part) for name, kind, part in parts if part is not None}

    def schema(self, definitions: Schema) -> Schema:
        name = self.cls.__name__
        if name not in definitions:
            definitions[name] = {}  # before those of its fields, in case one of them leads back here
            definitions[name] = self._definition(definitions)
        reference: Schema = {"$ref": f"#/$defs/{name}"}
        return {"anyOf": [{"type": "boolean"}, reference]} if self.shorthand else reference

    def _definition(self, definitions: Schema) -> Schema:
        properties = {}
        for name, field, kind in fields_of(self.cls):
            described = {"description": field.metadata["doc"], **kind.schema(definitions)}
            if isinstance(field.default, int | float | str):
                described["default"] = field.default
            properties[name] = {"anyOf": [described, {"type": "null"}]} if field.default is None else described
        required = [name for name, field, _ in fields_of(self.cls) if field.default is attrs.NOTHING]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }


@frozen
class Meant:
    """What an unknown key of a record stands for.

    Attributes:
        ours: the field; "" if there is none.
        remedy: what to do about the key.
        is_sure: whether that is known; else it is a guess from the spelling.
        has_its_value: whether the key's value is the field's. It is not if the same is said differently here.
    """

    ours: str
    remedy: str
    is_sure: bool = True
    has_its_value: bool = False


def meant_by(key: str, record: Mapping[Any, Any], cls: type[Any], suggestions: Suggestions) -> Meant:
    """What an unknown key stands for: a part of another level, a name of other software, or a misspelt field.

    Args:
        key: the key.
        record: the mapping that has it.
        cls: the class of which the mapping should become an object.
        suggestions: what finds close words.
    """
    from .names import NAMES  # noqa: PLC0415  needed only once something is wrong

    fields = {name: field for name, field, _ in fields_of(cls)}
    if found := _of_a_table(record.get(key), record, cls) or _of_a_part(key, cls):
        return found
    if carried := NAMES.get(key.lower()):
        ours = carried.ours.rpartition(".")[2]
        if ours in fields:
            remedy = carried.remedy.replace(f"`{carried.ours}`", f"`{ours}`")
            return Meant(ours, remedy, has_its_value=carried.is_same)
        return Meant("", carried.remedy)
    if close := suggestions.closest(key, fields):
        return Meant(close, f"{_did_you_mean(close)}otherwise remove it", is_sure=False, has_its_value=True)
    return Meant("", "remove it", is_sure=False)


def _of_a_part(key: str, cls: type[Any]) -> Meant | None:
    """What a key stands for that belongs one level deeper; None if it does not."""
    for name, _, kind in fields_of(cls):
        if key in _keys(kind):
            return Meant(name, f"write it under `{name}`")
        if isinstance(kind, Table) and key in _keys(kind.item):
            return Meant(name, f"write it under one of `{name}`")
    return None


def _of_a_table(part: Any, record: Mapping[Any, Any], cls: type[Any]) -> Meant | None:
    """What a part stands for that looks like an entry of a table, or like a whole one; None if it does not."""
    for name, _, kind in fields_of(cls):
        if isinstance(kind, Table) and isinstance(part, Mapping) and (keys := _keys(kind.item)):
            if any(key in keys for key in part):
                return Meant(name, f"indent it by one level more, under `{name}`")
            inner = [one for one in part.values() if isinstance(one, Mapping)]
            if name not in record and inner and all(any(key in keys for key in one) for one in inner):
                return Meant(name, f"rename it to `{name}`", has_its_value=True)
    return None


def _keys(kind: FieldType) -> list[str]:
    return [name for name, _, _ in fields_of(kind.cls)] if isinstance(kind, Record) else []


def fields_of(cls: type[Any]) -> tuple[tuple[str, attrs.Attribute[Any], FieldType], ...]:
    """Name, attrs attribute and type of each field of `cls` that was declared with `field`."""
    if cls not in _FIELDS:
        declared = (field for field in attrs.fields(cls) if "kind" in field.metadata)
        _FIELDS[cls] = tuple((field.name, field, field.metadata["kind"]) for field in declared)
    return _FIELDS[cls]


def _parsed(value: Any, field: attrs.Attribute[Any]) -> Any:
    """The stored form of a value that a field is given in Python. Raises PlanError."""
    if value is None and field.default is None:
        return None
    faults = Faults()
    parsed = field.metadata["kind"].parse(value, (field.name,), faults)
    faults.raise_errors()
    return parsed


_PARSED = attrs.Converter(_parsed, takes_field=True)  # one for all fields: attrs inspects every converter it is given


def field(kind: FieldType, *, doc: str, default: Any = attrs.NOTHING) -> Any:
    """Declare a field of a spec's class. A value that is not of its type raises PlanError when the object is built.

    Args:
        kind: what the value may be.
        doc: what the field means, as a noun phrase.
        default: the default. With None the key may be left out, or be null.
    """
    return attrs.field(
        default=default,
        converter=_PARSED,
        metadata={"kind": kind, "doc": doc},
    )
