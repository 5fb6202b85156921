"""Reads YAML and keeps the place of every key: text -> plain data and places -> Spec.

PyYAML makes a graph of nodes, each with its line and column. This file walks the graph itself: PyYAML's constructor
would drop duplicate keys and all places, and would expand aliases without limit. The limits here are far above any real
spec, and keep the worst input to a few seconds.
"""

from __future__ import annotations

import os
import re
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from os import PathLike
from typing import Any, cast

import attrs
import yaml

from ..base import codes
from ..base.codes import Code
from ..base.errors import Fault, Faults, Mark, Path, PlanError, Source, format_key
from ..base.inputs import note_read
from .fields import INVALID, FieldType, Record, fields_of, show
from .spec import SPEC_TYPE, Spec

MAX_BYTES = 256 * 1024
MAX_VALUES = 20_000
MAX_DEPTH = 32
_MAX_NODES = 2 * MAX_VALUES  # a key is a node, and no value
STDIN = "-"
_TAG = "tag:yaml.org,2002:"
_TEXT, _DATE = f"{_TAG}str", f"{_TAG}timestamp"
_SCALARS = {_TEXT, _DATE, *(f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float"))}
_TAGS = {yaml.MappingNode: {f"{_TAG}map"}, yaml.SequenceNode: {f"{_TAG}seq"}, yaml.ScalarNode: _SCALARS}
# YAML 1.1 also reads 010 as 8, 1_0 as 10 and 1:30 as 90. Editors follow YAML 1.2 and do not.
_SPELLINGS = {
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)"),
    "float": re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
}
_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d{1,4}")


def load_spec(path: str | PathLike[str]) -> Spec:
    """The spec in a YAML file, or on standard input if the path is `-`.

    Raises:
        PlanError: with every fault found, each with file:line:column.
    """
    data = read_bytes(path, MAX_BYTES)
    check_size(data, path)
    return parse_spec(data, file_name(path))


def file_name(path: str | PathLike[str]) -> str:
    """What messages call an input."""
    return "<stdin>" if str(path) == STDIN else str(path)


def read_bytes(path: str | PathLike[str], max_bytes: int) -> bytes:
    """The bytes of a file, or of standard input if the path is `-`.

    Args:
        max_bytes: the limit; of a longer input, one byte more than this is read.

    Raises:
        PlanError: the input cannot be read.
    """
    name = file_name(path)
    try:
        if str(path) == STDIN:
            if sys.stdin is None:
                raise ValueError("standard input is closed")
            return sys.stdin.buffer.read(max_bytes + 1)
        with open(path, "rb") as stream:
            note_read(stream.fileno(), str(path))
            return stream.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        rule = f"{name} cannot be read: {reason}"
        raise _refusal(codes.UNREADABLE, rule, _remedy_for_file(str(path)), Mark(name, 1, 1)) from None


def _remedy_for_file(path: str) -> str:
    """What to do about a file that cannot be read."""
    try:
        if os.path.isdir(path):
            return "name a file in that folder"
        return "check the permissions of the file" if os.path.exists(path) else "check the name and the current folder"
    except ValueError:  # a NUL in the name
        return "check the name"


def check_size(data: bytes, path: str | PathLike[str]) -> None:
    """Raise PlanError if an input is too long for a spec."""
    if len(data) > MAX_BYTES:
        rule = f"the document has at most {MAX_BYTES} bytes, got {len(data)} or more"
        raise _refusal(codes.TOO_LARGE, rule, "check that this is the right file", Mark(file_name(path), 1, 1))


def parse_spec(text: str | bytes, file: str = "<string>") -> Spec:
    """The spec in a YAML text. Messages call the text `file`.

    Raises:
        PlanError: with every fault found, each with file:line:column.
    """
    empty = "a spec has schema, batch and modules; the document is empty"
    spec, source = parse_document(text, file, SPEC_TYPE, (empty, "start from a file in examples/"))
    return cast("Spec", attrs.evolve(spec, source=source))


def parse_document(
    text: str | bytes, file: str, kind: FieldType, if_empty: tuple[str, str], *, is_ours: bool = False
) -> tuple[Any, Source]:
    """The value of a YAML document, and the places of its keys.

    Args:
        text: the document.
        file: what messages call it.
        kind: the type of the document as a whole.
        if_empty: rule and remedy of the fault for an empty document.
        is_ours: whether the text is a file of this package, which libyaml may read if PyYAML has it: in a tenth of the
            time. Everything else is read by PyYAML's own parser. The two do not agree on every text, and a spec must
            mean the same on every machine.

    Raises:
        PlanError: with every fault found, each with file:line:column.
    """
    try:
        return _parsed(text, file, kind, if_empty, is_ours=is_ours)
    except PlanError as error:
        if (
            (fault := error.faults[0]).code == codes.TOO_COMPLEX
            or fault.rule == if_empty[0]
            or _has_keys_of(kind, text)
        ):
            raise
        raise _unquoted(fault, kind) from None


def _has_keys_of(kind: FieldType, text: str | bytes) -> bool:
    """Whether a text has a key of this kind of document at its top. Of any other text, messages quote nothing.

    It may be another file, named by mistake, and messages are copied into issues. `name` does not count: half of all
    YAML files have it. The text is looked at as it stands, since it may be no YAML.
    """
    keys = _keys_of(kind)
    shown = text if isinstance(text, str) else text.decode(_encoding(text), errors="replace")
    key = "|".join(keys)
    return not keys or bool(re.search(rf"""(?m)(?:^|[{{,])\s*(?:["'](?:{key})["']\s*:|(?:{key})\s*:(?=\s|$))""", shown))


def _keys_of(kind: FieldType) -> list[str]:
    return [name for name, _, _ in fields_of(kind.cls) if name != "name"] if isinstance(kind, Record) else []


def _unquoted(fault: Fault, kind: FieldType) -> PlanError:
    """The fault of a text that is perhaps another file: its place and kind, without a word of the text."""
    some = ", ".join(_keys_of(kind)[:4])
    rule = f"{fault.code.summary}; the text has no key such as {some} at its top, and nothing of it is quoted"
    mark = fault.mark and attrs.evolve(fault.mark, text="")
    return PlanError([Fault(fault.code, (), rule, "check that this is the right file", mark)])


def _parsed(
    text: str | bytes, file: str, kind: FieldType, if_empty: tuple[str, str], *, is_ours: bool
) -> tuple[Any, Source]:
    parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader) if is_ours else _BoundedLoader
    shown = decode(text, file) if isinstance(text, bytes) else text
    root = _compose(shown, file, parser)
    if root is None:
        raise _refusal(codes.BAD_SYNTAX, *if_empty, Mark(file, 1, 1))
    walk = _Walk(file)
    data = walk.value(root, ())
    source = Source(file, tuple(walk.places), shown)
    faults = Faults(source)
    for code, path, rule, remedy in walk.found:
        faults.add(code, path, rule, remedy)
    faults.raise_errors()
    value = kind.parse(data, (), faults)
    try:
        faults.raise_errors()
    except PlanError as error:
        error.data, error.source = data, source
        raise
    assert value is not INVALID  # noqa: S101  INVALID comes with a fault
    return value, source


def _refusal(code: Code, rule: str, remedy: str, mark: Mark) -> PlanError:
    return PlanError([Fault(code, (), rule, remedy, mark)])


def decode(data: bytes, file: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 if it has a byte order mark. Raises PlanError."""
    encoding = _encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, errors="replace")
        rule = "the text is UTF-8; the bytes here are not"
        mark = _mark_at(before, len(before), file)
        raise _refusal(codes.BAD_SYNTAX, rule, "save the file as UTF-8 text", mark) from None


def _encoding(data: bytes) -> str:
    return "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"


def _mark_at(text: str, position: int, file: str) -> Mark:
    """The place of the character at an index of the text."""
    before = text[:position]
    start, end = before.rfind("\n") + 1, text.find("\n", position)
    line = text[start : end if end >= 0 else None]
    return Mark(file, before.count("\n") + 1, position - start + 1, text=line)


def _compose(text: str, file: str, parser: type[yaml.SafeLoader | yaml.CSafeLoader]) -> yaml.Node | None:
    """The graph of nodes of a document; None if it is empty. Raises PlanError if the text is no YAML."""
    try:
        return yaml.compose(text, Loader=parser)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Source(file, (), text).mark_at(at.line + 1, at.column + 1) if at else Mark(file, 1, 1)
        begun = error.context_mark.line + 1 if error.context_mark else mark.line
        since = f"in line {begun}" if begun != mark.line else ""
        problem = " ".join(part for part in (error.context, since, error.problem) if part)
        raise _refusal(
            codes.BAD_SYNTAX, f"the text is not valid YAML: {problem}", _remedy(problem, begun, mark), mark
        ) from None
    except yaml.reader.ReaderError as error:
        mark = _mark_at(text, error.position, file)
        rule = f"the text has printable characters, tabs and line breaks only; found {text[error.position]!r}"
        raise _refusal(codes.BAD_SYNTAX, rule, "remove the character", mark) from None
    except (ValueError, OverflowError) as error:  # an escape such as "\\U0011ffff" that is no character
        rule = f"the text is not valid YAML: {error}"
        raise _refusal(codes.BAD_SYNTAX, rule, "correct the escape sequence", Mark(file, 1, 1)) from None
    except _TooComplexError as error:
        raise _too_complex(file, error.mark) from None


def _remedy(problem: str, begun: int, mark: Mark) -> str:
    """What to look for if a text is no YAML. The place that PyYAML names is often after the mistake."""
    if "<block" in problem:
        return "check the indentation: all keys of a mapping, and all items of a list, start in one column"
    if "'\\t'" in problem:
        return "write spaces in place of the tab, also between a key and its value and at the end of the line"
    return "correct the text here" if begun == mark.line else f"correct the text here or in line {begun}"


class _BoundedLoader(yaml.SafeLoader):
    """PyYAML's own parser, which stops where the text has too many nodes: parsing takes far longer than the walk."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = 0
        self._depth = -1  # the root is at depth 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._num_nodes += 1
        self._depth += 1
        if self._num_nodes > _MAX_NODES or self._depth > MAX_DEPTH:
            raise _TooComplexError(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _TooComplexError(Exception):
    """Raised where a text has one node too many, or one that is too deep; `mark` is PyYAML's."""

    def __init__(self, mark: yaml.Mark) -> None:
        super().__init__()
        self.mark = mark


def _too_complex(file: str, at: yaml.Mark) -> PlanError:
    rule = f"values nest at most {MAX_DEPTH} deep and number at most {MAX_VALUES}, aliases expanded"
    mark = Mark(file, at.line + 1, at.column + 1)
    return _refusal(codes.TOO_COMPLEX, rule, "remove the aliases, or check that this is the right file", mark)


class _Walk:
    """One walk over a graph of nodes, which gives plain data, the place of every key, and the faults of the graph."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.places: list[tuple[Path, int, int, int]] = []
        self.found: list[tuple[Code, Path, str, str]] = []
        self._scalars = yaml.SafeLoader("")
        self._num_values = 0
        self._depth = -1  # the root is at depth 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        """The plain data of a node. Its own place is noted; the place of its key, if it has one, replaces it."""
        self._place(path, node)
        self._enter(node)
        try:
            return self._value(node, path)
        finally:
            self._depth -= 1

    def _enter(self, node: yaml.Node) -> None:
        """Count a value. One that aliases repeat counts each time."""
        self._num_values += 1
        self._depth += 1
        if self._depth > MAX_DEPTH or self._num_values > MAX_VALUES:
            self._stop(node)

    def _value(self, node: yaml.Node, path: Path) -> Any:
        if node.tag not in _TAGS[type(node)]:
            rule = f"values are plain numbers, words, booleans, lists and mappings; got the tag {show(node.tag)}"
            self.found.append((codes.BAD_SYNTAX, path, rule, "write the value without a tag"))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(part, (*path, i)) for i, part in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)  # noqa: S101  the third and last kind of node
        return self._scalar(node, path)

    def _stop(self, node: yaml.Node) -> None:
        raise _too_complex(self.file, node.start_mark)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        inherited: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                for base in self._bases(value_node, path):
                    inherited = {**base, **inherited}
                continue
            key = self._key(key_node, path)
            at = (*path, str(key))
            value = self.value(value_node, at)
            self._place(at, key_node, value_node)
            if key in found:
                rule = f"{show(key)} is written twice in {format_key(path[-1]) if path else 'the spec'}"
                self.found.append((codes.DUPLICATE_KEY, at, rule, "remove one of the two"))
            found[key] = value
        return {**inherited, **found}

    def _bases(self, node: yaml.Node, path: Path) -> Iterator[dict[Any, Any]]:
        """The mappings that `<<:` merges. Of two values for a key, that of the earlier mapping counts."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in parts:
            if isinstance(part, yaml.MappingNode):
                self._enter(part)
                yield self._mapping(part, path)
                self._depth -= 1
            else:
                rule = "`<<` merges a mapping or a list of mappings"
                self.found.append((codes.WRONG_TYPE, path, rule, "write `<<: *name` of a mapping"))

    def _key(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node, path)
        self.found.append((codes.WRONG_TYPE, path, "a key is a word, got a list or mapping", "write a word"))
        return f"line {node.start_mark.line + 1}"

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        if node.tag == _TEXT and not node.style and _EXPONENT.fullmatch(node.value):
            return float(node.value)  # text in YAML 1.1, but a number in YAML 1.2 and in every editor
        if node.tag in (_TEXT, _DATE):
            return node.value
        kind = node.tag.removeprefix(_TAG)
        if kind in _SPELLINGS and not _SPELLINGS[kind].fullmatch(node.value):
            rule = f"numbers are decimal, without leading zeros, `_` or `:`; got {show(node.value)}"
            self.found.append((codes.WRONG_TYPE, path, rule, "write a plain number, or quote the text"))
            return None
        try:
            return self._scalars.construct_object(node)
        except (ValueError, KeyError, OverflowError):
            rule = f"a value of type {kind} is spelt as one and of sensible size; got {show(node.value)}"
            self.found.append((codes.WRONG_TYPE, path, rule, "write a plain number or word"))
        return None

    def _place(self, path: Path, node: yaml.Node, value: yaml.Node | None = None) -> None:
        """Note the place of a node, which ends with its value if that is a word or number on the same line."""
        start, end = node.start_mark, node.end_mark
        if isinstance(value, yaml.ScalarNode) and value.start_mark.line == value.end_mark.line == start.line:
            end = value.end_mark  # an alias stands elsewhere
        is_short = isinstance(node, yaml.ScalarNode) and end.line == start.line and end.column > start.column
        self.places.append((path, start.line + 1, start.column + 1, end.column + 1 if is_short else 0))
