"""The `mimo` command: plan, diff, explain, schema.

Exit codes: 0 planned, 1 faults in what was given, 2 misuse of the command. Results go to standard output,
faults to standard error. Everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import attrs

from . import codes
from .errors import PlanError
from .plan import Plan
from .rules import MAX_SIZE, suggest

OK, FAULTS, MISUSE = 0, 1, 2


class MisuseError(Exception):
    """The command was given something that it does not take; the message says what it takes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _never_fail_on_characters()
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except PlanError as error:
        _print_faults(error)
        return FAULTS
    except MisuseError as error:
        print(f"mimo: {error}", file=sys.stderr)
        return MISUSE
    except BrokenPipeError:  # `mimo plan ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 130
    return code


def _never_fail_on_characters() -> None:
    """Replace what the terminal's encoding lacks, in names from the spec and in the drawings."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="replace")


def _print_faults(error: PlanError) -> None:
    from .render.style import plural, style_of  # noqa: PLC0415

    style = style_of(sys.stderr)
    for fault in error.faults:
        head, _, rest = str(fault).partition("\n")
        print(style.warn(head) if fault.is_warning else style.error(head), file=sys.stderr)
        print(rest, file=sys.stderr)
    total = len(error.faults) + error.num_left_out
    shown = f" ({len(error.faults)} shown)" if error.num_left_out else ""
    first = error.faults[0].code if error.faults else codes.NOT_JSON
    print(f"{plural(total, 'fault')}{shown}; `mimo explain {first}` tells more of {first}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mimo",
        description="Compile the layout of multimodal training into a proven plan, before asking for a GPU.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    plan = commands.add_parser("plan", help="compile a spec and show where everything runs")
    plan.add_argument("spec", metavar="SPEC", help="spec (YAML) or plan (JSON); - reads standard input")
    plan.add_argument("--rank", type=_count(0), metavar="N", help="show all that one rank needs")
    plan.add_argument(
        "--format",
        choices=("text", "json", "jsonl"),
        default="text",
        help="json: the plan; jsonl: one view per rank and line",
    )
    plan.add_argument("--out", metavar="FILE", help="also write the plan as JSON")
    plan.add_argument("--verify", action="store_true", help="check the plan by brute force as well")
    _add_world(plan)
    plan.add_argument("--strict", action="store_true", help="treat warnings as errors")
    plan.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour codes (default: on a terminal)",
    )
    plan.set_defaults(run=_plan)

    diff = commands.add_parser("diff", help="say what changed between two specs or plans")
    diff.add_argument("before", metavar="A", help="spec or plan")
    diff.add_argument("after", metavar="B", help="spec or plan")
    _add_world(diff)
    diff.set_defaults(run=_diff, strict=False)

    explain = commands.add_parser("explain", help="tell more of a diagnostic")
    explain.add_argument("code", metavar="CODE", nargs="?", help="such as P004; left out: list all")
    explain.set_defaults(run=_explain)

    schema = commands.add_parser("schema", help="print the JSON Schema of the spec, for editors")
    schema.set_defaults(run=_schema)
    return parser


def _add_world(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--world-size", type=_count(1), metavar="N", help="number of ranks, whatever the cluster says")
    parser.add_argument("--nodes", type=_count(1), metavar="N", help="override cluster.nodes")
    parser.add_argument("--gpus-per-node", type=_count(1), metavar="N", help="override cluster.gpus_per_node")


def _count(low: int) -> type[int]:
    """An argparse type: an integer from `low` up to the bound of every count."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= MAX_SIZE:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} to {MAX_SIZE}, got {text[:40]!r}")
        return number

    return parse  # type: ignore[return-value]  # argparse takes any callable


def _load(path: str, options: argparse.Namespace) -> Plan:
    """The plan in a file: a plan document, or a spec that is compiled with the overrides of the command line."""
    from .codec import MAX_BYTES, is_plan_text, loads  # noqa: PLC0415
    from .compile import compile_spec  # noqa: PLC0415
    from .loader import check_size, file_name, parse_spec, read_bytes  # noqa: PLC0415
    from .spec import Cluster  # noqa: PLC0415

    data = read_bytes(path, MAX_BYTES)
    overrides = {
        name: value
        for name, value in (("nodes", options.nodes), ("gpus_per_node", options.gpus_per_node))
        if value is not None
    }
    if is_plan_text(data):
        if overrides or options.world_size or options.strict:
            raise MisuseError(
                f"{path} is a compiled plan: --nodes, --gpus-per-node, --world-size and --strict need its spec"
            )
        return loads(data.decode(errors="replace"), file_name(path))
    check_size(data, path)
    spec = parse_spec(data, file_name(path))
    if overrides:
        spec = attrs.evolve(spec, cluster=attrs.evolve(spec.cluster or Cluster(), **overrides))
    return compile_spec(spec, world_size=options.world_size, strict=options.strict)


def _plan(options: argparse.Namespace) -> int:
    from .loader import file_name  # noqa: PLC0415
    from .render.style import stdout_style  # noqa: PLC0415

    plan = _load(options.spec, options)
    if options.rank is not None and options.rank >= plan.world_size:
        raise MisuseError(
            f"--rank {options.rank} is outside the world of {plan.world_size} ranks (0-{plan.world_size - 1})"
        )
    if options.out:
        _write(options.out, plan.to_json())
    if options.format == "json":
        _print_json(plan, options.rank)
    elif options.format == "jsonl":
        _print_views(plan, options.rank)
    elif options.rank is not None:
        from .render.rank_view import rank_view  # noqa: PLC0415

        sys.stdout.write(rank_view(plan, options.rank, stdout_style(options.color)))
    else:
        from .render.overview import overview  # noqa: PLC0415

        sys.stdout.write(overview(plan, file_name(options.spec), stdout_style(options.color)))
    if options.verify:
        _verify(plan)
    return OK


def _print_json(plan: Plan, rank: int | None) -> None:
    import json  # noqa: PLC0415

    from .render.rank_view import view_document  # noqa: PLC0415

    text = plan.to_json() if rank is None else json.dumps(view_document(plan.view(rank)), indent=2) + "\n"
    sys.stdout.write(text)


def _print_views(plan: Plan, rank: int | None) -> None:
    from .render.rank_view import view_lines  # noqa: PLC0415

    for line in view_lines(plan, range(plan.world_size) if rank is None else (rank,)):
        sys.stdout.write(line)


def _verify(plan: Plan) -> None:
    from .verify import verify  # noqa: PLC0415

    try:
        num_facts = verify(plan)
    except ValueError as error:
        raise MisuseError(str(error)) from None
    print(f"verified: {num_facts:,} facts checked by brute force", file=sys.stderr)


def _write(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    partial = f"{path}.partial"
    try:
        with open(partial, "w", encoding="ascii") as stream:
            stream.write(text)
        os.replace(partial, path)
    except (OSError, ValueError) as error:
        raise MisuseError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


def _diff(options: argparse.Namespace) -> int:
    from .diff import differences  # noqa: PLC0415

    if options.before == "-" and options.after == "-":
        raise MisuseError("only one of the two can be standard input")
    lines = differences(_load(options.before, options), _load(options.after, options))
    print("\n".join(lines) if lines else "no difference: the plans are equal")
    return OK


def _explain(options: argparse.Namespace) -> int:
    from .render.style import stdout_style, wrap  # noqa: PLC0415

    if options.code is None:
        for code in codes.CODES.values():
            print(f"{code}  {code.summary}")
        return OK
    found = codes.CODES.get(options.code.upper())
    if found is None:
        close = suggest(options.code.upper(), list(codes.CODES))
        raise MisuseError(f"no diagnostic {options.code[:40]!r}; {close}`mimo explain` lists all")
    level = "a warning; --strict makes it an error" if found.is_warning else "an error"
    text = wrap(found.explanation.split(), stdout_style("never").width)
    print(f"{found}: {found.summary} ({level})", "", *text, sep="\n")
    return OK


def _schema(options: argparse.Namespace) -> int:  # noqa: ARG001  every command takes its options
    import json  # noqa: PLC0415

    from .schema import spec_schema  # noqa: PLC0415

    print(json.dumps(spec_schema(), indent=2))
    return OK


if __name__ == "__main__":
    sys.exit(main())
