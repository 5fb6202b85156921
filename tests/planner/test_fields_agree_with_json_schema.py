"""Law: the JSON Schema that `mimo schema` prints accepts a document exactly if no field of it has a fault.

Left out is what JSON Schema cannot say: floats that are whole, which are integers to it but not to YAML, and rules that
join several fields.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from planner import PlanError, load_spec
from planner.base.axes import Axis
from planner.base.errors import Faults
from planner.spec.fields import INVALID, Record, fields_of
from planner.spec.json_schema import spec_schema
from planner.spec.sections import Batch, Cluster, Freeze, Model, Module, Output, Parallel, Training
from planner.spec.spec import SPEC_TYPE, Spec
from tests import EXAMPLES

SPECS = sorted(EXAMPLES.glob("*.yaml"))
DATA = [yaml.safe_load(path.read_text()) for path in SPECS]
DATA[-1]["training"] = {"lr": 0.001}  # YAML 1.1 reads 1e-4 as text, unlike the loader and editors
SCHEMA = spec_schema()
CLASSES = (Batch, Cluster, Freeze, Model, Module, Output, Parallel, Spec, Training)
OF_FIELDS = {"S101", "S102", "S103", "S104", "S105", "S106"}

WORDS = [
    "", "x", "language", "images", "a b", "2nd", "m" * 64, "m" * 65, "vicuna-7b", "gpt", "vit", "audio",
    "RMSNorm", "relu",
    "none", "full", "bf16", "fp32", "adam", "disjoint", "colocated", "tp-cp-dp-pp", "pp-dp-cp-tp", "tp-cp-dp",
    "tp-tp-cp-dp",
    "tp-cp-dp-pp-ep", "h100", "é", "a\tb", "~", " ", "a_b-c", "_a", "GPT",
]  # fmt: skip
NUMBERS = [
    -(2**70),
    -1,
    0,
    1,
    2,
    3,
    4,
    7,
    2**24 - 1,
    2**24,
    2**24 + 1,
    10**6,
    10**6 + 1,
    2**70,
    0.5,
    -0.5,
    1e-9,
    1e6,
    1e7,
    2.5,
]
VALUES: list[Any] = [
    None, True, False, *NUMBERS, *WORDS, [], [1], [1, 2, 3], [0], [1, "x"], ["language"], ["language", "2nd"],
    ["tp", "cp", "dp", "pp"],
    [None], [[1]],
    [True], [1] * 4096, [1] * 4097, ["a"] * 256, ["a"] * 257, {}, {"x": 1}, {"tp": 2}, {"language": {}}, {"2nd": {}},
    {"language": None}, {"language": []}, {"images": ["language"]}, {"encoder": True}, {"encoder": 1}, {"": {}},
    {"global_size": 1, "micro_size": 1, "seq_length": 1}, {"global_size": 1, "micro_size": 1, "seq_length": 0},
    {f"m{i}": {} for i in range(256)}, {f"m{i}": {} for i in range(257)}, {f"m{i}": [] for i in range(257)},
]  # fmt: skip


def is_whole_float(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema)


WHOLE = validator(SCHEMA)


def codes_of(rule: Any, data: Any) -> set[str]:
    """The codes of the faults that a field finds in plain data."""
    faults = Faults()
    parsed = rule.parse(data, (), faults)
    assert (parsed is INVALID) == faults.has_errors
    try:
        faults.raise_errors()
    except PlanError as error:
        return {fault.code.name for fault in error.faults}
    return set()


def lacks_language(data: Any) -> bool:
    """Whether a spec has modules, and none is named language: a rule of the topology, which editors can mark too."""
    modules = data.get("modules") if isinstance(data, dict) else None
    return isinstance(modules, dict) and "language" not in modules


def check(rule: Any, schema: jsonschema.Draft202012Validator, data: Any) -> bool:
    """Whether both accept the value. Fails unless both accept or both refuse it."""
    codes = codes_of(rule, data)
    refused = bool(codes & OF_FIELDS) or (rule.cls is Spec and lacks_language(data))
    reasons = [f"{list(error.path)}: {error.message[:200]}" for error in schema.iter_errors(data)]
    assert bool(reasons) == refused, (codes, reasons, repr(data)[:500])
    return not refused


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert set(SCHEMA["$defs"]) == {cls.__name__ for cls in CLASSES}


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_examples_agree(path: Path) -> None:
    assert load_spec(path)
    data = yaml.safe_load(path.read_text())
    if isinstance(data.get("training", {}).get("lr"), str):
        data["training"]["lr"] = float(data["training"]["lr"])
    assert check(SPEC_TYPE, WHOLE, data)


def test_every_key_is_described_and_described_once() -> None:
    for cls in CLASSES:
        definition = SCHEMA["$defs"][cls.__name__]
        assert definition["additionalProperties"] is False
        assert list(definition["properties"]) == [name for name, _, _ in fields_of(cls)]
        for name, described in definition["properties"].items():
            options = [described, *described.get("anyOf", [])]
            assert any(option.get("description") for option in options), (cls, name)


def smallest(cls: type[Any]) -> dict[str, Any]:
    """A mapping that holds what the class requires, and no more."""
    if cls is Batch:
        return {"global_size": 1, "micro_size": 1, "seq_length": 1}
    return {"batch": smallest(Batch), "modules": {"language": {}}} if cls is Spec else {}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_value_in_every_field_agrees(cls: type[Any]) -> None:
    rule = Record(cls)
    schema = validator({"$ref": f"#/$defs/{cls.__name__}", "$defs": SCHEMA["$defs"]})
    assert check(rule, schema, smallest(cls))
    for name, _, _ in fields_of(cls):
        values = [value for value in VALUES if not is_whole_float(value)]
        outcomes = {check(rule, schema, {**smallest(cls), name: value}) for value in values}
        assert outcomes == {True, False}, name  # the values above hold good and bad ones for every field
    for missing in smallest(cls):
        assert not check(rule, schema, {key: value for key, value in smallest(cls).items() if key != missing})
    for other in ("x", "", "tpp", "Batch", "source", "batch "):
        assert not check(rule, schema, {**smallest(cls), other: 1})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


SMALL = st.sampled_from([value for value in VALUES if len(repr(value)) < 200 and not is_whole_float(value)])
KEYS = st.sampled_from(sorted({name for cls in CLASSES for name, _, _ in fields_of(cls)} | set(WORDS[:8])))


@st.composite
def specs(draw: st.DrawFn) -> Any:
    """An example in which a few values and keys were changed."""
    data = copy.deepcopy(draw(st.sampled_from(DATA)))
    for _ in range(draw(st.integers(0, 3))):
        *parents, last = draw(st.sampled_from(list(places(data))))
        place = data
        for key in parents:
            place = place[key]
        match draw(st.sampled_from(["replace", "replace", "delete", "rename", "add"])):
            case "replace":
                place[last] = copy.deepcopy(draw(SMALL))
            case "delete":
                del place[last]
            case "rename" if isinstance(place, dict):
                place[draw(KEYS)] = place.pop(last)
            case _ if isinstance(place, dict):
                place[draw(KEYS)] = copy.deepcopy(draw(SMALL))
        if not data:
            break
    return data


ANYTHING = st.recursive(
    SMALL | st.integers() | st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: not is_whole_float(x)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150)
@given(specs() | ANYTHING)
@example({})
@example(None)
@example([])
@example({**DATA[0], "schema": None})
@example({**DATA[0], "topology": {"2nd": []}})
def test_fields_and_schema_agree(data: Any) -> None:
    check(SPEC_TYPE, WHOLE, data)


@pytest.mark.long
@settings(max_examples=5000)
@given(specs() | ANYTHING)
def test_a_sweep_of_fields_and_schema_agrees(data: Any) -> None:
    check(SPEC_TYPE, WHOLE, data)


def test_what_a_spec_encodes_validates() -> None:
    for path in SPECS:
        data = SPEC_TYPE.encode(load_spec(path))
        assert json.loads(json.dumps(data)) == data
        assert check(SPEC_TYPE, WHOLE, data)


def test_defaults_in_the_schema_are_the_classes() -> None:
    def default_of(described: dict[str, Any]) -> Any:
        options = [described, *described.get("anyOf", [])]
        return next((option["default"] for option in options if "default" in option), None)

    properties = {name: default_of(found) for name, found in SCHEMA["$defs"]["Parallel"]["properties"].items()}
    assert {name: properties[name] for name in ("tp", "cp", "pp", "ep", "expt_tp")} == dict.fromkeys(
        ("tp", "cp", "pp", "ep", "expt_tp"), 1
    )
    assert properties["dp"] is None
    assert default_of(SCHEMA["$defs"]["Module"]["properties"]["recompute"]) == Module().recompute
    assert default_of(SCHEMA["$defs"]["Training"]["properties"]["lr"]) == Training().lr
    orders = SCHEMA["$defs"]["Parallel"]["properties"]["order"]["enum"]
    assert len(orders) == 24
    assert "-".join((Axis.TP, Axis.CP, Axis.DP, Axis.PP)) in orders
