"""`mimo diff`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .options import MisuseError, add_format, add_gpu, add_world, load
from .report import predicted

if TYPE_CHECKING:
    from ..cost.prediction import Prediction
    from ..plan import Plan


def add(commands: Any) -> None:
    """Add the command."""
    diff = commands.add_parser("diff", help="say what changed between two specs or plans")
    diff.add_argument("before", metavar="A", help="a spec or plan")
    diff.add_argument("after", metavar="B", help="a spec or plan")
    diff.add_argument("--exit-code", action="store_true", help="exit with 1 if they differ, as `git diff` does")
    add_gpu(diff)
    add_world(diff)
    add_format(diff)
    diff.set_defaults(run=_diff, strict=False)


def _diff(options: argparse.Namespace) -> int:
    from ..cost.timing.hardware import load_hardware  # noqa: PLC0415
    from ..diff import cost_changes, differences  # noqa: PLC0415

    if options.before == "-" and options.after == "-":
        raise MisuseError("only one of the two can be standard input")
    if options.gpu:
        load_hardware(options.gpu)
    plans = [load(path, options) for path in (options.before, options.after)]
    lines = differences(*plans)
    predictions = [_if_predicted(plan, options.gpu) for plan in plans] if lines or options.format == "json" else []
    before, after = predictions or (None, None)
    if before and after:
        lines += cost_changes(before, after)
    if options.format == "json":
        print(json.dumps({"differences": lines, "before": _numbers(before), "after": _numbers(after)}, indent=2))
    else:
        print("\n".join(lines) if lines else "no difference: the plans are equal")
    return int(bool(lines) and options.exit_code)


def _if_predicted(plan: Plan, gpu: str | None) -> Prediction | None:
    """The prediction of a plan; None if a module has no model, the plan is too large, or its GPU is not known."""
    from ..base.errors import PlanError  # noqa: PLC0415

    try:
        return predicted(plan, gpu)
    except PlanError:
        return None


def _numbers(p: Prediction | None) -> dict[str, Any] | None:
    """What is predicted, for programs; None if nothing is."""
    if p is None:
        return None
    ends = p.timeline is not None
    return {
        "world_size": p.world_size,
        "step_seconds": p.step_seconds if ends else None,
        "tokens_per_second": p.tokens_per_second if ends else None,
        "bubble": p.bubble if ends else None,
        "fullest_rank_bytes": p.worst.total,
        "fits": p.fits,
    }
