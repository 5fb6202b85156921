"""`mimo plan`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..plan import Plan
from .options import MisuseError, add_color, add_gpu, add_world, count, load
from .output import print_warnings, write


def add_plan(commands: Any) -> None:
    """Add the command."""
    plan = commands.add_parser("plan", help="compile a spec and show where everything runs")
    plan.add_argument("spec", metavar="SPEC", help="spec (YAML) or plan (JSON); - reads standard input")
    plan.add_argument("--rank", type=count(0), metavar="N", help="show all that one rank needs")
    plan.add_argument(
        "--format",
        choices=("text", "json", "jsonl"),
        default="text",
        help="json: the plan; jsonl: one view per rank and line",
    )
    plan.add_argument("--out", metavar="FILE", help="also write the plan as JSON")
    plan.add_argument("--verify", action="store_true", help="check the plan by brute force as well")
    add_gpu(plan)
    add_world(plan)
    plan.add_argument("--strict", action="store_true", help="treat warnings as errors")
    add_color(plan)
    plan.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from ..render.style import stdout_style  # noqa: PLC0415
    from ..spec.loader import file_name  # noqa: PLC0415

    if options.gpu is not None and (options.format != "text" or options.rank is not None):
        raise MisuseError("--gpu is of the prediction, which --format json, --format jsonl and --rank leave out")
    plan = load(options.spec, options)
    if options.rank is not None and options.rank >= plan.world_size:
        raise MisuseError(
            f"--rank {options.rank} is outside the world of {plan.world_size} ranks (0-{plan.world_size - 1})"
        )
    if options.out is not None:
        write(options.out, plan.to_json(), options.spec)
    if options.format != "text" or options.rank is not None:  # the overview prints them itself
        print_warnings(plan)
    if options.format == "json":
        _print_json(plan, options.rank)
    elif options.format == "jsonl":
        _print_views(plan, options.rank)
    elif options.rank is not None:
        from ..render.rank_view import rank_view  # noqa: PLC0415

        sys.stdout.write(rank_view(plan, options.rank, stdout_style(options.color)))
    else:
        from ..render.overview import overview  # noqa: PLC0415

        sys.stdout.write(overview(plan, file_name(options.spec), stdout_style(options.color), options.gpu))
    if options.verify:
        _verify(plan)
    return 0


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
