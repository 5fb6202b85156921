"""`mimo plan`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .options import (
    MisuseError,
    add_color,
    add_gpu,
    add_json,
    add_spec,
    add_strict,
    add_world,
    integer,
    load,
    warnings_of,
)
from .output import outputs_of, print_faults

if TYPE_CHECKING:
    from ..base.errors import Fault
    from ..plan import Plan


def add(commands: Any) -> None:
    """Add the command."""
    plan = commands.add_parser("plan", help="compile a spec and show where everything runs")
    add_spec(plan)
    plan.add_argument("--rank", type=integer(0), metavar="N", help="show everything that one rank needs")
    plan.add_argument(
        "--format",
        choices=("text", "json", "jsonl", "dot", "mermaid"),
        default="text",
        help="json: the plan; jsonl: a line for each rank; dot, mermaid: a drawing of the modules",
    )
    plan.add_argument("--out", metavar="FILE", help="also write the plan to FILE, as JSON")
    plan.add_argument("--verify", action="store_true", help="also check the plan by brute force")
    add_gpu(plan)
    add_world(plan)
    plan.add_argument(
        "--target",
        choices=("local", "te"),
        help="whose layers run it, megatron-core's or Transformer Engine's (default: te if the spec names a GPU)",
    )
    add_json(plan)
    add_strict(plan)
    add_color(plan)
    plan.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    if options.gpu is not None and (options.format != "text" or options.rank is not None):
        raise MisuseError("--gpu is for the prediction, which only the text of the whole plan has")
    if options.rank is not None and options.format in ("dot", "mermaid"):
        raise MisuseError(f"--format {options.format} draws the whole plan: it takes no --rank")
    (out,) = outputs_of({"--out": options.out}, options.spec, options.gpu)
    if out and out.is_stdout:
        raise MisuseError("--out - would mix the plan with the text on standard output: --format json prints it alone")
    plan = load(options.spec, options)
    warnings = warnings_of(plan, options, _limits(plan, options.target))
    if options.rank is not None:
        try:
            plan.check_rank(options.rank)
        except ValueError as error:
            raise MisuseError(f"--{error}") from None
    if out:
        out.write(plan.to_json())
    if options.format != "text" or options.rank is not None:  # the overview prints them itself
        print_faults(warnings, options)
    _print(plan, options, warnings)
    if options.verify:
        _verify(plan)
    return 0


def _limits(plan: Plan, target: str | None) -> tuple[Fault, ...]:
    """Everything for which `executor train` would refuse the plan."""
    from ..limits.layers import Layers  # noqa: PLC0415
    from ..limits.limits import limits_of  # noqa: PLC0415
    from ..limits.target import Target, planned_layers  # noqa: PLC0415

    return limits_of(plan, Target(layers=Layers(target) if target else planned_layers(plan)))


def _print(plan: Plan, options: argparse.Namespace, warnings: Sequence[Fault]) -> None:
    if options.format == "json":
        _print_json(plan, options.rank)
    elif options.format == "jsonl":
        _print_views(plan, options.rank)
    elif options.format in ("dot", "mermaid"):
        from ..render.graph import dot_text, mermaid_text  # noqa: PLC0415

        sys.stdout.write(dot_text(plan) if options.format == "dot" else mermaid_text(plan))
    else:
        _print_text(plan, options, warnings)


def _print_text(plan: Plan, options: argparse.Namespace, warnings: Sequence[Fault]) -> None:
    from ..render.style import stdout_style  # noqa: PLC0415
    from ..spec.loader import file_name  # noqa: PLC0415

    style = stdout_style(options.color)
    if options.rank is not None:
        from ..render.rank_view import rank_view  # noqa: PLC0415

        sys.stdout.write(rank_view(plan, options.rank, style))
    else:
        from ..render.overview import overview  # noqa: PLC0415

        sys.stdout.write(overview(plan, file_name(options.spec), style, options.gpu, warnings))


def _print_json(plan: Plan, rank: int | None) -> None:
    import json  # noqa: PLC0415

    from ..render.rank_view import view_document  # noqa: PLC0415

    text = plan.to_json() if rank is None else json.dumps(view_document(plan.view(rank)), indent=2) + "\n"
    sys.stdout.write(text)


def _print_views(plan: Plan, rank: int | None) -> None:
    from ..render.rank_view import view_lines  # noqa: PLC0415

    for line in view_lines(plan, range(plan.world_size) if rank is None else (rank,)):
        sys.stdout.write(line)


def _verify(plan: Plan) -> None:
    from ..verify import VerificationError, verify  # noqa: PLC0415

    try:
        num_facts = verify(plan)
    except ValueError as error:
        raise MisuseError(str(error)) from None
    except VerificationError as error:
        raise MisuseError(f"the plan is wrong, please report it: {error}") from None
    print(f"verified: {num_facts:,} facts checked by brute force", file=sys.stderr)
