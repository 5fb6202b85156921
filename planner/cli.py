"""The `mimo` command: plan, predict, report, calibrate, diff, explain, schema.

Exit codes: 0 planned, 1 faults in what was given, 2 misuse of the command. Results go to standard output,
faults to standard error. Everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import codecs
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from . import codes as diagnostics
from .errors import Fault, Mark, PlanError
from .plan import Plan
from .report.command import add_report, announce
from .rules import MAX_SIZE, suggest
from .spec import Cluster, Spec

if TYPE_CHECKING:
    from .cost.calibrate import Sample
    from .cost.hardware import Hardware
    from .cost.runs import Runs

OK, FAULTS, MISUSE = 0, 1, 2
_MANY_RUNS = 100  # to predict them takes about a second


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
        _drop_output()
        return OK
    except OSError as error:
        _drop_output()
        print(f"mimo: cannot write standard output: {error.strerror}", file=sys.stderr)
        return MISUSE
    except KeyboardInterrupt:
        return 130
    return code


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Lines that are drawn become ASCII, any other character that the encoding lacks a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(str.maketrans("─┬├└┤┘", "-+++++"))
    return text.encode("ascii", "replace").decode(), error.end


codecs.register_error("drawing", _replace)


def _drop_output() -> None:
    """Keep the interpreter from failing once more when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _never_fail_on_characters() -> None:
    """Replace what the terminal's encoding lacks; a closed stream becomes one that leads nowhere."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="drawing")


def _print_faults(error: PlanError) -> None:
    from .render.style import plural, style_of  # noqa: PLC0415

    style = style_of(sys.stderr)
    for fault in error.faults:
        head, _, rest = str(fault).partition("\n")
        print(style.warn(head) if fault.is_warning else style.error(head), file=sys.stderr)
        print(rest, file=sys.stderr)
    total = len(error.faults) + error.num_left_out
    shown = f" ({len(error.faults)} shown)" if error.num_left_out else ""
    first = error.faults[0].code if error.faults else diagnostics.NOT_JSON
    print(f"{plural(total, 'fault')}{shown}; `mimo explain {first}` tells more of {first}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Of the command and, as argparse has it, of each of its own: options are written in full.

    Else `--gpu 4`, to a command without it, would be --gpus-per-node.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
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
    _add_gpu(plan)
    _add_world(plan)
    plan.add_argument("--strict", action="store_true", help="treat warnings as errors")
    plan.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour codes (default: on a terminal)",
    )
    plan.set_defaults(run=_plan)

    add_report(commands, _add_gpu, _add_world, _load, _write)

    predict = commands.add_parser("predict", help="say what a plan will take: time, memory, traffic")
    predict.add_argument("spec", metavar="SPEC", nargs="?", help="spec (YAML) or plan (JSON); - reads standard input")
    predict.add_argument("--csv", metavar="FILE", help="predict every row of a file of measured runs instead")
    _add_gpu(predict)
    predict.add_argument("--json", action="store_true", help="print all numbers as JSON")
    _add_world(predict)
    predict.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="colour codes")
    predict.set_defaults(run=_predict, strict=False)

    calibrate = commands.add_parser("calibrate", help="fit a GPU's constants to measured runs")
    calibrate.add_argument(
        "runs", metavar="CSV", nargs="+", help="files of measured runs, each counting alike (README: Measured runs)"
    )
    calibrate.add_argument("--gpu", metavar="NAME", help="where to begin; else the GPU of the runs")
    calibrate.add_argument(
        "--leave-out",
        metavar="COLUMNS",
        help="cross-validate too: predict the runs of each value of these columns by a fit to the others",
    )
    calibrate.add_argument("-o", "--out", metavar="FILE", help="write the hardware file there (.yaml)")
    calibrate.set_defaults(run=_calibrate)

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


def _add_gpu(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu", metavar="NAME", help="GPU, or a hardware file (.yaml); else the spec's cluster.gpu")


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
    from .compile import compile_spec  # noqa: PLC0415
    from .files import read_plan_or_spec  # noqa: PLC0415

    found = read_plan_or_spec(path)
    if isinstance(found, Spec):
        return compile_spec(_override(found, options), world_size=options.world_size, strict=options.strict)
    if options.nodes or options.gpus_per_node or options.world_size or options.strict:
        taken = "--nodes, --gpus-per-node, --world-size and --strict"
        raise MisuseError(f"{path} is a compiled plan: {taken} need its spec")
    return found


def _override(spec: Spec, options: argparse.Namespace) -> Spec:
    """The spec with the cluster of the command line."""
    given = {"nodes": options.nodes, "gpus_per_node": options.gpus_per_node}
    overrides = {name: value for name, value in given.items() if value is not None}
    if not overrides:
        return spec
    if options.world_size is not None and options.nodes is not None:
        raise MisuseError("--world-size and --nodes both say how many ranks there are: give one of them")
    cluster = attrs.evolve(spec.cluster or Cluster(), **overrides)
    if cluster.nodes is not None and cluster.gpus_per_node is None:
        raise MisuseError("--nodes needs --gpus-per-node: the spec does not say how many GPUs a node has")
    return attrs.evolve(spec, cluster=cluster)


def _plan(options: argparse.Namespace) -> int:
    from .loader import file_name  # noqa: PLC0415
    from .render.style import stdout_style  # noqa: PLC0415

    if options.gpu is not None and (options.format != "text" or options.rank is not None):
        raise MisuseError("--gpu is of the prediction, which --format json, --format jsonl and --rank leave out")
    plan = _load(options.spec, options)
    if options.rank is not None and options.rank >= plan.world_size:
        raise MisuseError(
            f"--rank {options.rank} is outside the world of {plan.world_size} ranks (0-{plan.world_size - 1})"
        )
    if options.out is not None:
        _write(options.out, plan.to_json(), options.spec)
    if options.format != "text" or options.rank is not None:  # the overview prints them itself
        _print_warnings(plan)
    if options.format == "json":
        _print_json(plan, options.rank)
    elif options.format == "jsonl":
        _print_views(plan, options.rank)
    elif options.rank is not None:
        from .render.rank_view import rank_view  # noqa: PLC0415

        sys.stdout.write(rank_view(plan, options.rank, stdout_style(options.color)))
    else:
        from .render.overview import overview  # noqa: PLC0415

        sys.stdout.write(overview(plan, file_name(options.spec), stdout_style(options.color), options.gpu))
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


def _print_warnings(plan: Plan) -> None:
    for warning in plan.warnings:
        print(warning, file=sys.stderr)


def _verify(plan: Plan) -> None:
    from .verify import VerificationError, verify  # noqa: PLC0415

    try:
        num_facts = verify(plan)
    except ValueError as error:
        raise MisuseError(str(error)) from None
    except VerificationError as error:
        raise MisuseError(f"the plan is wrong, please report it: {error}") from None
    print(f"verified: {num_facts:,} facts checked by brute force", file=sys.stderr)


def _write(path: str, text: str, *sources: str) -> None:
    """Write a regular file whole or not at all; anything else (a pipe, a device) in place."""
    from tempfile import NamedTemporaryFile  # noqa: PLC0415

    target = _target(path, *sources)
    try:
        if os.path.exists(target) and not os.path.isfile(target):
            with open(target, "w", encoding="utf-8") as stream:
                stream.write(text)
            return
        with NamedTemporaryFile("w", encoding="utf-8", dir=os.path.dirname(target), delete=False) as partial:
            try:
                partial.write(text)
                partial.flush()
                os.chmod(partial.name, 0o666 & ~_umask())
                os.replace(partial.name, target)
            except BaseException:  # a full disk, Ctrl-C: nothing is left behind
                os.unlink(partial.name)
                raise
    except (OSError, ValueError) as error:
        raise _cannot_write(path, error) from None


def _target(path: str, *sources: str) -> str:
    """The file that is to be written. Raises MisuseError where it cannot be, or is one of those that are read."""
    if not path:
        raise MisuseError("--out needs the name of a file")
    target = os.path.realpath(path)
    for source in sources:
        if target == os.path.realpath(source):
            raise MisuseError(f"--out {path} would overwrite {source}, which is read")
    return target


def _cannot_write(path: str, error: Exception) -> MisuseError:
    return MisuseError(f"cannot write {path!r}: {getattr(error, 'strerror', None) or error}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _predict(options: argparse.Namespace) -> int:
    if (options.spec is None) == (options.csv is None):
        raise MisuseError("predict takes a SPEC or --csv FILE, one of the two")
    from .cost.hardware import load_hardware  # noqa: PLC0415

    hardware = load_hardware(options.gpu) if options.gpu else None
    if options.csv is not None:
        if options.json or options.world_size or options.nodes or options.gpus_per_node:
            raise MisuseError("--csv prints CSV, and its rows say the layout: it takes --gpu alone")
        return _predict_runs(options.csv, hardware)
    return _predict_spec(options, hardware)


def _predict_runs(path: str, hardware: Hardware | None) -> int:
    """Every row that can be predicted, then what is wrong with the others."""
    from .cost.hardware import DEFAULT  # noqa: PLC0415
    from .cost.predict_runs import predict_runs, predictions_text  # noqa: PLC0415
    from .render.fits import accuracy_lines  # noqa: PLC0415

    runs = _read_runs(path)
    told = _progress(f"predicting {len(runs.rows)} runs") if len(runs.rows) > _MANY_RUNS else None
    found = predict_runs(runs, hardware, told)
    sys.stdout.write(predictions_text(found))
    sys.stdout.flush()
    if found.num_assumed:
        print(f"{DEFAULT} is assumed where a spec names no cluster.gpu: give --gpu", file=sys.stderr)
    for line in accuracy_lines(found):
        print(line, file=sys.stderr)
    if found.faults:
        raise PlanError(found.faults)
    return OK


def _predict_spec(options: argparse.Namespace, hardware: Hardware | None) -> int:
    from .cost.predict import predict  # noqa: PLC0415
    from .loader import file_name  # noqa: PLC0415
    from .render.costs import costs_document, costs_text  # noqa: PLC0415
    from .render.style import stdout_style  # noqa: PLC0415

    if options.spec.endswith(".csv"):
        raise MisuseError(f"{options.spec} is a file of runs, not a spec: predict --csv {options.spec}")
    plan = _load(options.spec, options)
    _print_warnings(plan)
    if not any(module.model for module in plan.modules):
        rule, mark = "a prediction needs sizes, and no module has a model", Mark(file_name(options.spec), 1, 1)
        remedy = "add `model:` with a preset or sizes to the modules"
        raise PlanError([Fault(diagnostics.MISSING_KEY, ("modules",), rule, remedy, mark)])
    announce(plan)
    prediction = predict(plan, hardware)
    if options.json:
        import json  # noqa: PLC0415

        print(json.dumps(costs_document(prediction), indent=2))
    else:
        sys.stdout.write(costs_text(prediction, file_name(options.spec), stdout_style(options.color)))
    return OK


def _read_runs(path: str) -> Runs:
    from .cost.runs import read_runs  # noqa: PLC0415
    from .loader import decode, file_name, read_bytes  # noqa: PLC0415

    limit = 16 * 2**20
    try:
        data = read_bytes(path, limit)
        if len(data) > limit:
            raise MisuseError(f"{path} has more than {limit} bytes: check that it is a file of runs")
        return read_runs(decode(data, file_name(path)), file_name(path))
    except PlanError as error:
        raise error.of("runs") from None


def _calibrate(options: argparse.Namespace) -> int:
    from .cost.accuracy import samples_of  # noqa: PLC0415
    from .cost.calibrate import calibrate, fitted, influence, unfitted  # noqa: PLC0415
    from .cost.hardware import hardware_text, load_hardware  # noqa: PLC0415
    from .render.fits import error_lines, fit_lines  # noqa: PLC0415
    from .render.style import plural, style_of  # noqa: PLC0415

    if options.out is not None:
        _check_hardware_file(options.out, *options.runs)
    files = [_read_runs(path) for path in options.runs]
    samples = [samples_of(runs) for runs in files]
    hardware = load_hardware(options.gpu or _gpu_of(files, samples))
    if not fitted(hardware):
        raise MisuseError(f"{hardware.name} has no constant with a `start`: give those to be fitted one")
    groups = _left_out(files, options.leave_out)
    num_runs = sum(map(len, samples))
    found = calibrate(hardware, samples, progress=_progress(f"fitting to {plural(num_runs, 'run')}"))
    lines = fit_lines(hardware, found, influence(unfitted(hardware), samples), num_runs, style_of(sys.stderr))
    print(*lines, *error_lines(options.runs, samples, found), sep="\n", file=sys.stderr)
    if groups:
        _cross_validate(hardware, options, samples, groups)
    if options.out is None:
        sys.stdout.write(hardware_text(found))
    else:
        _write(options.out, hardware_text(found), *options.runs)
    return OK


def _check_hardware_file(path: str, *sources: str) -> None:
    """Raise MisuseError where a fit could not be written, before it takes its time."""
    if not path.endswith((".yaml", ".yml")):
        raise MisuseError(f"--out {path}: a hardware file is named .yaml or .yml, so that --gpu takes it")
    target = _target(path, *sources)
    folder = os.path.dirname(target)
    for is_wrong, reason in (
        (os.path.isdir(target), "it is a directory"),
        (not os.path.isdir(folder), f"there is no directory {folder}"),
        (not os.access(folder, os.W_OK), f"no permission to write in {folder}"),
    ):
        if is_wrong:
            raise MisuseError(f"cannot write {path!r}: {reason}")


def _gpu_of(files: Sequence[Runs], samples: Sequence[Sequence[Sample]]) -> str:
    """The one GPU that all runs name."""
    from .cost.predict_runs import gpu_of  # noqa: PLC0415

    found = {gpu_of(runs, one.work) for runs, each in zip(files, samples, strict=True) for one in each}
    if None in found:
        raise MisuseError("not every spec of the runs names its cluster.gpu: name the GPU with --gpu")
    gpus = sorted(gpu for gpu in found if gpu)
    if len(gpus) > 1:
        raise MisuseError(f"the runs are of {' and '.join(gpus)}: calibrate one GPU at a time, or name it with --gpu")
    return gpus[0]


def _left_out(files: Sequence[Runs], columns: str | None) -> list[list[tuple[str, ...]]]:
    """What cross-validation leaves out together: per file and run, its cells in the named columns."""
    if columns is None:
        return []
    names = [name.strip() for name in columns.split(",")]
    for runs in files:
        if missing := [name for name in names if name not in runs.header]:
            have = ", ".join(runs.header)
            raise MisuseError(f"--leave-out: {runs.file} has no column {missing[0]!r}; it has {have}")
    groups = [[tuple(row[name] for name in names) for row in runs.rows] for runs in files]
    if len({key for keys in groups for key in keys}) < 2:
        raise MisuseError(f"--leave-out {columns}: all runs have the same value, so none would be left to fit to")
    return groups


def _cross_validate(
    hardware: Hardware,
    options: argparse.Namespace,
    samples: Sequence[Sequence[Sample]],
    groups: list[list[tuple[str, ...]]],
) -> None:
    from .cost.accuracy import cross_validated  # noqa: PLC0415
    from .render.fits import errors_line  # noqa: PLC0415

    told = _progress("cross-validating")
    held_out = cross_validated(hardware, samples, groups, progress=told)
    print(f"each {options.leave_out} predicted by constants fitted to the others:", file=sys.stderr)
    for path, seconds, each in zip(options.runs, held_out, samples, strict=True):
        print("  " + errors_line(path, seconds, each), file=sys.stderr)


def _progress(what: str) -> Callable[[float], None]:
    """Says what is being done and, on a terminal, how far it is; the share is written over by what comes next."""
    live = sys.stderr.isatty()
    print(f"{what} ...", end="\r" if live else "\n", file=sys.stderr, flush=True)
    shown = -1

    def told(share: float) -> None:
        nonlocal shown
        if live and int(100 * share) > shown:
            shown = int(100 * share)
            print(f"{what} ... {shown:2} %", end="\r", file=sys.stderr, flush=True)

    return told


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
        for code in diagnostics.CODES.values():
            print(f"{code}  {code.summary}")
        return OK
    found = diagnostics.CODES.get(options.code.upper())
    if found is None:
        close = suggest(options.code, list(diagnostics.CODES))
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
