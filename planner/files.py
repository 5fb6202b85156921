"""A file that a command was given: a plan document as JSON, or a spec in YAML."""

from __future__ import annotations

from pathlib import Path as FilePath

from .codec import MAX_BYTES, is_plan_text, loads
from .passes.compile import compile_spec
from .plan import Plan
from .spec.loader import check_size, file_name, parse_spec, read_bytes
from .spec.spec import Spec


def read_plan_or_spec(path: str | FilePath) -> Plan | Spec:
    """What is in a file, or on standard input for `-`. Raises PlanError."""
    data = read_bytes(path, MAX_BYTES)
    if is_plan_text(data):
        return loads(data.decode("utf-8-sig", errors="replace"), file_name(path))
    check_size(data, path)
    return parse_spec(data, file_name(path))


def load_plan(path: str | FilePath) -> Plan:
    """The plan in a file, compiled where the file is a spec. Raises PlanError."""
    found = read_plan_or_spec(path)
    return found if isinstance(found, Plan) else compile_spec(found)
