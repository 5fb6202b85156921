"""Law: a plan document that was edited in any one place is refused, and the message names the place.

If the edited value follows from the spec, its own place is named. If it is in the spec, another plan follows, and the
message names a fault of the spec, a value that no longer follows from it, or the digest.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Plan, PlanError, load_spec
from planner.base.codes import CODES
from tests import EXAMPLES
from tests.strategies import planned

TINY = "tiny_4rank"
OTHERS = ("llava_8gpu_colocated", "moe_ep8_32gpu", "qwen35_vl_17rank", "vision_audio_64gpu")
Path_ = tuple[str | int, ...]
_FIELDS = {
    "mimo_plan", "world_size", "layout", "spec", "modules", "edges", "batch", "total_stages", "num_groups", "digest"
}  # fmt: skip


@cache
def text_of(name: str) -> str:
    return planned(load_spec(EXAMPLES / f"{name}.yaml")).to_json()


def document_of(name: str) -> dict[str, Any]:
    return json.loads(text_of(name))


def places(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value of a document with its path, beginning with the document itself."""
    yield path, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def others_than(value: Any) -> list[Any]:
    """Values other than `value`, of its own type and of every other."""
    candidates: list[Any] = [
        None,
        True,
        False,
        0,
        1,
        -1,
        1.5,
        2**24 + 1,
        10**30,
        "",
        "x",
        [],
        {},
        [value],
        {"x": value},
    ]
    if isinstance(value, int):
        candidates += [value + 1, value - 1, float(value), bool(value), str(value)]
    if isinstance(value, float):
        candidates += [value * 2, int(value), str(value)]
    if isinstance(value, str):
        candidates += [value + "x", value[:-1], value.upper(), f" {value}"]
    if isinstance(value, list):
        candidates += [value[:-1], [*value, 1], value[::-1], dict(enumerate(map(str, value)))]
    return [other for other in candidates if (type(other), other) != (type(value), value)]


def twins_of(value: Any) -> list[Any]:
    """Two other values: one of the same type, and one of another type that is equal or nearly so."""
    match value:
        case bool():
            return [not value, int(value)]
        case int():
            return [value + 1, float(value)] if value != 1 else [2, True]
        case float():
            return [value * 2, str(value)]
        case str():
            return [value + "x", None]
        case _:
            return [value[:-1] if value else [1], dict(enumerate(value))]


def edited(document: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    """A copy of the document in which one value was replaced or added."""
    found = copy.deepcopy(document)
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return found


def without(document: dict[str, Any], path: Path_) -> dict[str, Any]:
    found = copy.deepcopy(document)
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return found


def refused(document: Any) -> PlanError:
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text)
    error = caught.value
    assert error.faults
    for fault in error.faults:
        assert CODES[fault.code.name] is fault.code
        assert fault.rule.strip()
        assert fault.remedy.strip()
    lines = str(error).split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 2 * len(error.faults) + bool(error.num_left_out)
    return error


def check_named(error: PlanError, path: Path_) -> None:
    """The message names the edited place or, if the spec was edited, may name what came of it."""
    found = [fault.path for fault in error.faults]
    if path[0] == "spec":
        assert all(at[0] in _FIELDS for at in found), (path, str(error))
        return
    near = [at for at in found if at and (at == path[: len(at)] or path == at[: len(path)])]
    assert near, (path, str(error))
    # Nothing but that place is wrong, and if the document is read that far, its digest is still right.
    assert all(fault.path in near or fault.code.name == "J004" for fault in error.faults), (path, str(error))


# ---- one edit


def test_an_unedited_plan_is_read() -> None:
    for name in (TINY, *OTHERS):
        plan = Plan.from_json(text_of(name))
        assert plan.to_json() == text_of(name)
        assert plan == planned(load_spec(EXAMPLES / f"{name}.yaml"))


def test_the_fields_of_a_plan_are_known() -> None:
    assert set(document_of(TINY)) == _FIELDS


def test_form_is_not_content() -> None:
    """Spaces and the order of keys do not count: the digest is that of the content."""
    document = document_of(TINY)
    shuffled = {key: document[key] for key in reversed(document)}
    for text in (json.dumps(document), json.dumps(document, indent=7), json.dumps(shuffled)):
        assert Plan.from_json(text) == Plan.from_json(text_of(TINY))


def protected_values(document: dict[str, Any]) -> list[tuple[Path_, Any]]:
    return [(path, value) for path, value in places(document) if path and not isinstance(value, dict)]


def test_every_value_of_a_plan_is_protected() -> None:
    """Each is replaced by a value of its type, and by one of another type that Python calls equal or nearly so."""
    document = document_of(TINY)
    found = protected_values(document)
    assert len(found) > 250
    for path, value in found:
        for other in twins_of(value):
            check_named(refused(edited(document, path, other)), path)


@pytest.mark.long
def test_every_value_of_a_plan_is_protected_against_any_other() -> None:
    document = document_of(TINY)
    for path, value in protected_values(document):
        for other in others_than(value):
            check_named(refused(edited(document, path, other)), path)


def test_every_key_of_a_plan_is_needed() -> None:
    document = document_of(TINY)
    paths = [path for path, _ in places(document) if path]
    assert len(paths) > 200
    for path in paths:
        check_named(refused(without(document, path)), path)


def test_no_key_may_be_added_to_a_plan() -> None:
    document = document_of(TINY)
    objects = [path for path, value in places(document) if isinstance(value, dict)]
    assert len(objects) > 40
    for path in objects:
        for key, value in (("x", 1), ("", None), ("num_groups ", 5)):
            error = refused(edited(document, (*path, key), value))
            assert any(fault.path == (*path, key) for fault in error.faults), (path, key, str(error))
    for path in [path for path, value in places(document) if isinstance(value, list)]:
        value = next(value for at, value in places(document) if at == path)
        check_named(refused(edited(document, path, [*value, {"x": 1}])), path)


@given(st.data())
def test_edits_of_any_plan_are_refused(data: st.DataObject) -> None:
    document = document_of(data.draw(st.sampled_from(OTHERS)))
    found = [(path, value) for path, value in places(document) if path]
    path, value = data.draw(st.sampled_from(found))
    kind = data.draw(st.sampled_from(["replace", "replace", "delete", "random"]))
    if kind == "delete":
        check_named(refused(without(document, path)), path)
        return
    anything = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=9)
    )
    other = data.draw(anything if kind == "random" else st.sampled_from(others_than(value)))
    if (type(other), other) != (type(value), value):
        check_named(refused(edited(document, path, other)), path)


@given(st.data())
def test_plans_are_refused_when_two_values_are_swapped(data: st.DataObject) -> None:
    document = document_of(data.draw(st.sampled_from((TINY, *OTHERS))))
    leaves = [(path, value) for path, value in places(document) if not isinstance(value, dict | list)]
    one, other = data.draw(st.lists(st.sampled_from(leaves), min_size=2, max_size=2, unique_by=lambda leaf: leaf[0]))
    if (type(one[1]), one[1]) != (type(other[1]), other[1]):
        refused(edited(edited(document, one[0], other[1]), other[0], one[1]))


def test_an_edit_of_the_spec_is_one_fault() -> None:
    """Everything else follows from it: the size of the world, all groups, the digest."""
    text = planned(load_spec(EXAMPLES / "tiny_4rank.yaml")).to_json()
    assert text.count('"tp": 1') >= 1
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text.replace('"tp": 1', '"tp": 2'))
    (fault,) = caught.value.faults
    assert (fault.code.name, fault.path) == ("J003", ("spec",))
    assert "do not, the first world_size: the spec gives 6, found 4" in fault.rule
    with pytest.raises(PlanError) as caught:
        Plan.from_json('{"mimo_plan": 1}')
    (fault,) = caught.value.faults
    assert (fault.code.name, fault.rule) == ("J003", "spec is missing")


def test_an_edit_with_its_digest_made_right_is_refused() -> None:
    """An edit of a derived value is found by the spec, even if the digest is computed anew."""
    from hashlib import sha256  # noqa: PLC0415  only here

    document = document_of(TINY)
    del document["digest"]

    def signed(changed: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(changed, sort_keys=True, separators=(",", ":"))
        return {**changed, "digest": sha256(text.encode()).hexdigest()}

    assert Plan.from_json(json.dumps(signed(document))) == Plan.from_json(text_of(TINY))
    changed = edited(document, ("num_groups",), document["num_groups"] + 1)
    error = refused(signed(changed))
    assert ("num_groups",) in [fault.path for fault in error.faults]


def test_another_plans_spec_is_refused() -> None:
    document = document_of(TINY)
    document["spec"] = document_of("vision_audio_64gpu")["spec"]
    error = refused(document)
    assert {fault.path[0] for fault in error.faults} >= {"world_size"} or any(
        fault.path[0] == "spec" for fault in error.faults
    )


def test_a_changed_learning_rate_is_found_by_the_digest() -> None:
    error = refused(edited(document_of(TINY), ("spec", "training", "lr"), 0.2))
    assert [(fault.code.name, fault.path) for fault in error.faults] == [("J004", ("digest",))]


@pytest.mark.parametrize("world_size", [3, 5, 8, 2**24, 2**24 + 1, 10**30])
def test_a_changed_world_size_is_named(world_size: int) -> None:
    error = refused(edited(document_of(TINY), ("world_size",), world_size))
    assert ("world_size",) in [fault.path for fault in error.faults]
    assert str(world_size)[:8] in str(error)


# ---- not a plan at all


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "JSON"),
        ("schema: 1", "JSON"),
        ("null", "object"),
        ("5", "object"),
        ('"plan"', "object"),
        ("[]", "object"),
        ("[{}]", "object"),
        ("[1, 2", "JSON"),
        ("[" * 100_000, "nest"),
        ('{"a":' * 100_000, "nest"),
        ("\x00", "JSON"),
        ("\ud800", "JSON"),
        ("\ufeff{}", "JSON"),
        ('{"mimo_plan": 01}', "JSON"),
        ('{"mimo_plan": 1,}', "JSON"),
        ("{'mimo_plan': 1}", "JSON"),
        ('{"a": "\x1b[31m"}', "JSON"),
    ],
)
def test_what_is_no_json_object_is_refused(text: str, says: str) -> None:
    (fault,) = refused(text).faults
    assert fault.code.name == "J001"
    assert fault.mark is not None
    assert says in fault.rule


def test_a_truncated_plan_is_refused() -> None:
    text = text_of(TINY).rstrip()
    for end in range(0, len(text), 61):
        (fault,) = refused(text[:end]).faults
        assert fault.code.name == "J001"
        assert fault.mark.line <= text[:end].count("\n") + 1
    (fault,) = refused(text + "}").faults
    assert fault.code.name == "J001"


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_lacks_are_refused(name: str) -> None:
    text = text_of(TINY).replace('"lr": 0.1', f'"lr": {name}')
    assert name in text
    (fault,) = refused(text).faults
    assert fault.code.name == "J001"
    assert name in fault.rule


def test_a_number_beyond_floats_is_refused() -> None:
    text = text_of(TINY).replace('"lr": 0.1', '"lr": 1e999')
    assert "1e999" in text
    assert [fault.path for fault in refused(text).faults] == [("spec", "training", "lr")]


@pytest.mark.parametrize("place", ["world_size", "num_groups", "mimo_plan", "total_stages"])
def test_a_number_of_thousands_of_digits_is_refused(place: str) -> None:
    document = document_of(TINY)
    text = json.dumps(document).replace(
        f'"{place}": {document[place]}', f'"{place}": {"9" * (sys.get_int_max_str_digits() + 1)}'
    )
    assert "9" * 4000 in text
    error = refused(text)
    assert {fault.code.name for fault in error.faults} <= {"J001", "J002", "J003"}
    assert len(str(error)) < 1000


@pytest.mark.parametrize("key", ["digest", "world_size", "tp", "kind"])
def test_a_key_written_twice_is_refused(key: str) -> None:
    text = text_of(TINY)
    at = text.index(f'"{key}"')
    end = text.index("\n", at)
    member = text[at:end].rstrip(",")
    assert text.count(f'"{key}"') > 0
    (fault,) = refused(f"{text[:at]}{member}, {text[at:]}").faults
    assert fault.code.name == "J001"
    assert repr(key) in fault.rule
    assert "twice" in fault.rule


@pytest.mark.parametrize("version", [0, 2, -1, "1", 1.5, True, None, [1], {}, 10**30])
def test_another_version_is_refused(version: Any) -> None:
    (fault,) = refused(edited(document_of(TINY), ("mimo_plan",), version)).faults
    assert fault.code.name == "J002"
    assert fault.path == ("mimo_plan",)
    assert "1" in fault.rule
    assert str(version)[:8] in fault.rule


def test_a_version_of_another_type_is_refused() -> None:
    error = refused(edited(document_of(TINY), ("mimo_plan",), 1.0))  # equal to 1, but of another type
    assert ("mimo_plan",) in [fault.path for fault in error.faults]


def test_a_document_without_a_version_is_refused() -> None:
    for document in ({}, {"schema": 1}, without(document_of(TINY), ("mimo_plan",))):
        (fault,) = refused(document).faults
        assert fault.code.name == "J002"


@pytest.mark.parametrize("path", [("spec", "x"), ("x",), ("spec", "modules", "language"), ("batch", "x")])
@pytest.mark.parametrize("key", ["\x1b[2J", "a\nb", "\ud800", "\u202e", "k" * 100_000])
def test_keys_reach_no_terminal(path: Path_, key: str) -> None:
    error = refused(edited(document_of(TINY), (*path[:-1], key), 1))
    assert len(str(error)) < 2000


def test_deep_values_inside_a_plan_are_refused() -> None:
    """They are shallow enough to be read as JSON, in every place that is compared with what the spec gives."""
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    document = document_of(TINY)
    for path in (("spec",), ("spec", "modules"), ("modules",), ("edges",), ("batch",), ("digest",), ("world_size",)):
        check_named(refused(edited(document, path, deep)), path)


@given(st.text(max_size=40) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
).map(json.dumps))  # fmt: skip
def test_any_text_is_refused(text: str) -> None:
    refused(text)
