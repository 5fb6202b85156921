"""Plans and specs from files. A plan document is refused when it was edited.

Reading compiles the document's spec again and compares the rest, so that a document cannot contradict itself;
the digest catches every other change.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from os import PathLike
from typing import Any

from .base import codes
from .base.errors import Fault, Faults, Mark, Path, PlanError, Source, format_path
from .document import PLAN_VERSION, VERSION_KEY, digest_of_fields, document
from .layout.bridges import BYTES_OF, EdgeSizes, join, width_of
from .layout.dag import stages_before
from .passes.compile import compile_spec
from .plan import Plan
from .spec.fields import INVALID, show
from .spec.loader import check_size, file_name, parse_spec, read_bytes
from .spec.spec import SPEC_TYPE, Spec

MAX_BYTES = 64 * 2**20
_FILE = "<plan>"
_MAX_EDITED = 3  # values that are told one by one; of more, the first and what they have in common


def read_plan_or_spec(path: str | PathLike[str], *, has_cluster: bool = True) -> Plan | Spec:
    """What is in a file, or on standard input for `-`.

    Args:
        path: the file.
        has_cluster: whether the cluster in a spec is the one that will be used; if not, nothing is said about it.

    Raises:
        PlanError: with every fault of the text. Those of a spec come with the faults of all passes that do not follow.
    """
    data = read_bytes(path, MAX_BYTES)
    if is_plan_text(data):
        return loads(data.decode("utf-8-sig", errors="replace"), file_name(path))
    check_size(data, path)
    try:
        return parse_spec(data, file_name(path))
    except PlanError as error:
        from .passes.further import with_further_faults  # noqa: PLC0415  needed only once something is wrong

        raise with_further_faults(error, has_cluster=has_cluster) from None


def load_plan(path: str | PathLike[str]) -> Plan:
    """The plan in a file, which is compiled if the file is a spec. Raises PlanError."""
    found = read_plan_or_spec(path)
    return found if isinstance(found, Plan) else compile_spec(found)


def is_plan_text(data: bytes) -> bool:
    """Whether a file claims to be a plan document (a spec is never one: it has no such key)."""
    return data.removeprefix(BOM_UTF8).lstrip().startswith(b"{") and f'"{VERSION_KEY}"'.encode() in data


def loads(text: str, file: str = _FILE) -> Plan:
    """The plan of a document.

    Raises:
        PlanError: not JSON, another version, a field that is unknown, missing, of the wrong type or that
            contradicts the rest (each named by its path), or a digest that does not match.
    """
    fields = _read_json(text, file)
    faults = Faults(Source(file, ()))
    version = fields.get(VERSION_KEY)
    if version != PLAN_VERSION or isinstance(version, bool):
        rule = f"{VERSION_KEY} = {PLAN_VERSION}, got {show(version)}"
        faults.add(codes.PLAN_VERSION, (VERSION_KEY,), rule, "compile the spec again with this version")
        faults.raise_errors()
    if "spec" not in fields:
        _differs("spec is missing", ("spec",), faults)
        faults.raise_errors()
    spec = SPEC_TYPE.parse(fields["spec"], ("spec",), faults)
    faults.raise_errors()
    assert spec is not INVALID  # noqa: S101  our own bug if not: INVALID comes with a fault
    try:
        plan = compile_spec(spec)
    except PlanError as error:
        faults.extend(error, ("spec",))
        faults.raise_errors()
        raise  # unreachable: error had faults
    _compare({**document(plan), "digest": plan.digest}, fields, (), faults)
    if faults.has_errors and not _is_of_release_0_1(plan, fields):
        raise _summed_up(faults.error, file)
    return plan


def _summed_up(error: PlanError, file: str) -> PlanError:
    """What was edited, without what follows: a digest that no longer fits, or all of a plan whose spec was changed."""
    edited = [fault for fault in error.faults if fault.code != codes.DIGEST]
    if len(edited) <= _MAX_EDITED:
        return PlanError(edited or error.faults)
    first = edited[0]
    within = first.path
    for fault in edited:
        while fault.path[: len(within)] != within:
            within = within[:-1]
    rule = (
        f"all values follow from the spec; {len(edited) + error.num_left_out} do not, the first "
        f"{format_path(first.path)}: {first.rule}"
    )
    where = format_path(within) if within else "the spec in this file"
    remedy = f"undo the edit of {where}, or compile the spec again: mimo plan SPEC --out FILE"
    return PlanError([Fault(codes.PLAN_EDITED, within or ("spec",), rule, remedy, Mark(file, 1, 1))])


def _is_of_release_0_1(plan: Plan, fields: dict[str, Any]) -> bool:
    """Whether release 0.1 wrote this document of the plan, untouched since.

    That release counted the stages of every module on the longest path, even of modules that share ranks, and took an
    encoder whose tokens_per_sample varies to hand on a whole sequence. It decided everything else as this one does.
    """
    modules = {module.name: module for module in plan.modules}
    before = stages_before(plan.edges, {name: module.num_stages for name, module in modules.items()})
    former = document(plan)
    former["total_stages"] = max(before[name] + module.num_stages for name, module in modules.items())
    for edge, (src, dst) in zip(former["edges"], plan.edges, strict=True):
        hidden = width_of(modules[src], modules[dst])
        tokens = modules[src].output.tokens_per_sample or plan.batch_sizes.seq_length
        num_bytes = None if hidden is None else tokens * hidden * BYTES_OF[plan.training.dtype]
        sizes = EdgeSizes(num_bytes, plan.gpus_per_node)
        edge["strategy"] = str(join(modules[src], modules[dst], plan.batch_sizes.micro_size, sizes).strategy)
    differences = Faults()
    _compare({**former, "digest": digest_of_fields(former)}, fields, (), differences)
    return not differences.has_errors


def _read_json(text: str, file: str) -> dict[str, Any]:
    def refuse(rule: str, line: int = 1, column: int = 1) -> PlanError:
        remedy = "give a file that `mimo plan --out` wrote"
        return PlanError([Fault(codes.NOT_JSON, (), rule, remedy, Mark(file, line, column))])

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"the key {show(twice)} is written twice")
        return found

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not a number of JSON")

    if len(text) > MAX_BYTES:
        raise refuse(f"a plan has at most {MAX_BYTES} characters, got {len(text)}")
    try:
        fields = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise refuse(f"the text is JSON: {error.msg}", error.lineno, error.colno) from None
    except RecursionError:
        raise refuse("the text nests a few levels only; this one never ends") from None
    except ValueError as error:
        raise refuse(f"the text is JSON of unique keys and finite numbers: {error}") from None
    if not isinstance(fields, dict):
        raise refuse(f"a plan is a JSON object, got {show(fields)}")
    return fields


def _compare(expected: Any, found: Any, path: Path, faults: Faults) -> None:
    """Add a fault for every value that differs from what the spec gives."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            if key not in found:
                _differs(f"{key} is missing", (*path, key), faults)
            elif key not in expected:
                _differs(f"{show(key)} is not a field of a plan", (*path, str(key)), faults)
            else:
                _compare(expected[key], found[key], (*path, key), faults)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            _compare(one, other, (*path, index), faults)
    elif type(expected) is not type(found) or expected != found:
        if path == ("digest",):
            rule = f"digest = sha256 of the document = {expected}, got {show(found)}"
            faults.add(codes.DIGEST, path, rule, "a value was edited: change the spec and compile again")
        else:
            _differs(f"the spec gives {show(expected)}, found {show(found)}", path, faults)


def _differs(rule: str, path: Path, faults: Faults) -> None:
    faults.add(codes.PLAN_EDITED, path, rule, "change the spec and compile again, or undo the edit")
