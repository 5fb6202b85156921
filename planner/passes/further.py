"""All faults of a spec that cannot be read whole: those of its text, and those of passes that do not follow."""

from __future__ import annotations

from ..base import codes
from ..base.errors import Fault, Faults, Path, PlanError
from ..spec.mend import Mended
from .compile import compile_spec

# What passes read, by the section of a module or of the spec: the letters of the faults that may follow from it.
_READERS = {
    "parallel": "PBM",
    "model": "M",
    "stages": "M",
    "output": "M",
    "special_token_id": "M",
    "batch": "BM",
    "cluster": "PB",
    "topology": "TM",
    "placement": "P",
    "schema": "",
    "training": "",
    "freeze": "",
    "recompute": "",
}
_ALL = "TPMBWSJ"
_OF_SEVERAL = (codes.SPECIAL_TOKEN, codes.TOKENS)  # faults of models that depend on more than one module


def with_further_faults(error: PlanError, *, has_cluster: bool = True) -> PlanError:
    """The error of reading a spec, with the faults of all passes that do not follow from its own.

    What can be read of the spec is compiled. A fault is left out if its pass reads what could not be read.

    Args:
        error: the faults of the text.
        has_cluster: whether the spec's cluster is the one that will be used.
    """
    if error.data is None or error.source is None:
        return error
    kept = Mended(error.data)
    if kept.spec is None:
        return error
    dropped = [*kept.dropped, *([] if has_cluster else [("cluster",)])]
    try:
        compile_spec(kept.spec)
    except PlanError as later:
        faults = Faults(error.source)
        faults.extend(error)
        for fault in later.faults:
            if not any(_follows(fault, path) for path in dropped):
                faults.add(fault.code, kept.written(fault.path), fault.rule, fault.remedy)
        both = faults.error
        both.data, both.source = error.data, error.source
        return both
    return error


def _follows(fault: Fault, dropped: Path) -> bool:
    """Whether a fault may follow from a value that was dropped."""
    if fault.code == codes.MICROBATCHES:
        return dropped[0] == "batch"
    letter = "P" if fault.code == codes.CONFLICT and fault.path[:1] == ("cluster",) else fault.code[0]
    if dropped[0] != "modules":
        return letter in _READERS.get(str(dropped[0]), _ALL)
    if len(dropped) < 3:  # a whole module, or a key of one that stands a level too far out
        return letter in _READERS.get(str(dropped[-1]), _ALL)
    readers = _READERS.get(str(dropped[2]), _ALL)
    is_of_one = letter == "M" and fault.code not in _OF_SEVERAL and fault.path[:1] == ("modules",)
    return letter in readers and not (is_of_one and fault.path[:2] != dropped[:2])
