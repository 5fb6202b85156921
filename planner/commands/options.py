"""The options that commands share: numbers, GPUs, the size of the world, and the plan in a file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from ..base.axes import MAX_SIZE

if TYPE_CHECKING:
    from ..base.errors import Fault, Faults, PlanError
    from ..cost.prediction import Prediction
    from ..plan import Plan
    from ..spec.spec import Spec


class MisuseError(Exception):
    """The command was given something that it does not take; the message says what it takes."""


class Version(argparse.Action):
    """`--version`: prints a line and exits. The line is made only when it is asked for."""

    def __init__(self, option_strings: list[str], dest: str, *, line: Callable[[], str]) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")
        self.line = line

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(self.line())
        parser.exit()


def integer(low: int, high: int = MAX_SIZE) -> Callable[[str], int]:
    """An argparse type: an integer from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            found = int(text)
        except ValueError:
            found = low - 1
        if not low <= found <= high:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} to {high}, got {text[:40]!r}")
        return found

    return parse


def number(high: float) -> Callable[[str], float]:
    """An argparse type: a number above 0 and at most `high`."""

    def parse(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = 0.0
        if not 0 < found <= high:  # nor NaN
            raise argparse.ArgumentTypeError(f"expected a number above 0 and at most {high:g}, got {text[:40]!r}")
        return found

    return parse


def add_spec(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """SPEC: the file that most commands read. `nargs` is "?" if it may be left out."""
    parser.add_argument(
        "spec", metavar="SPEC", nargs=nargs, help="a spec (YAML) or a plan (JSON); - reads standard input"
    )


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """--gpu: the GPU that a prediction is for."""
    parser.add_argument(
        "--gpu", metavar="NAME", help="a GPU by name, or a hardware file (.yaml); by default the spec's cluster.gpu"
    )


def add_root(parser: argparse.ArgumentParser) -> None:
    """--root: how far the files may lie that a file of runs names."""
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="read the files that rows name from anywhere below DIR, not only below the folder of the CSV file",
    )


def add_world(parser: argparse.ArgumentParser) -> None:
    """The number of ranks and nodes, which replaces what the spec says."""
    parser.add_argument(
        "--world-size", type=integer(1), metavar="N", help="number of ranks, whatever the spec's cluster says"
    )
    parser.add_argument("--nodes", type=integer(1), metavar="N", help="number of nodes, instead of cluster.nodes")
    parser.add_argument(
        "--gpus-per-node", type=integer(1), metavar="N", help="GPUs per node, instead of cluster.gpus_per_node"
    )


def add_strict(parser: argparse.ArgumentParser) -> None:
    """--strict: whether warnings stop the command."""
    parser.add_argument("--strict", action="store_true", help="treat warnings, and memory that does not fit, as errors")


def add_format(parser: argparse.ArgumentParser) -> None:
    """--format: for people or for programs, and --json for short."""
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: for programs")
    add_json(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json, of a command that has --format."""
    parser.add_argument("--json", action="store_const", const="json", dest="format", help="short for --format json")


def add_color(parser: argparse.ArgumentParser) -> None:
    """--color: whether to print colour codes."""
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="when to print colour codes; auto: on a terminal",
    )


def load(path: str, options: argparse.Namespace) -> Plan:
    """The plan in a file: a plan document, or a spec that is compiled with the overrides of the command line.

    A plan document is read whatever GPU it names, unless warnings are errors: its spec may be from another machine.

    Raises:
        PlanError: the file cannot be read, or has faults; a spec names a GPU that is not known, and no other is given.
        MisuseError: overrides that contradict each other, or that are given with a plan document.
    """
    from ..base.errors import Faults, PlanError  # noqa: PLC0415
    from ..plan_file import read_plan_or_spec  # noqa: PLC0415
    from ..spec.spec import Spec  # noqa: PLC0415

    is_overridden = bool(options.nodes or options.gpus_per_node or options.world_size)
    try:
        found = read_plan_or_spec(path, has_cluster=not is_overridden)
    except PlanError as error:
        raise _with_gpu(error, options) from None
    if isinstance(found, Spec):
        return _compiled(_override(found, options), options)
    if is_overridden:
        raise MisuseError(f"{path} is a compiled plan: --nodes, --gpus-per-node and --world-size need its spec")
    if options.strict:
        faults = Faults()
        _check_gpu(found.gpu, options, faults)
        faults.raise_errors()
    return found


def _compiled(spec: Spec, options: argparse.Namespace) -> Plan:
    """The plan of a spec, whose GPU must be known unless the command line names another."""
    if spec.cluster is None or spec.cluster.gpu is None or getattr(options, "gpu", None) is not None:
        from ..passes.compile import compile_spec  # noqa: PLC0415

        return compile_spec(spec, world_size=options.world_size)
    from ..cost.timing.hardware import compile_on_known_gpu  # noqa: PLC0415

    return compile_on_known_gpu(spec, options.world_size)


def _check_gpu(gpu: str | None, options: argparse.Namespace, faults: Faults) -> None:
    """Add a fault if a GPU is not known, unless the command line names another."""
    if gpu is not None and getattr(options, "gpu", None) is None:
        from ..cost.timing.hardware import check_gpu  # noqa: PLC0415

        check_gpu(gpu, faults)


def _with_gpu(error: PlanError, options: argparse.Namespace) -> PlanError:
    """The faults of a spec's text, with that of its GPU."""
    from ..base.errors import Faults  # noqa: PLC0415

    cluster = error.data.get("cluster") if isinstance(error.data, dict) else None
    gpu = cluster.get("gpu") if isinstance(cluster, dict) else None
    if not isinstance(gpu, str):
        return error
    faults = Faults(error.source)
    faults.extend(error)
    _check_gpu(gpu, options, faults)
    return faults.error


def warnings_of(plan: Plan, options: argparse.Namespace, limits: tuple[Fault, ...] = ()) -> tuple[Fault, ...]:
    """What is doubtful about a plan, in source order.

    Args:
        limits: what cannot run it.

    Raises:
        PlanError: warnings are errors, and there is one, or a rank's memory does not fit.
    """
    from ..base.errors import PlanError, in_source_order  # noqa: PLC0415

    said = {fault.path for fault in limits}  # what cannot run is told once, and not doubted as well
    found = in_source_order((*(fault for fault in plan.warnings if fault.path not in said), *limits))
    if options.strict and (refused := in_source_order((*found, *memory_warnings_of(plan, options)))):
        raise PlanError(refused)
    return found


def memory_warnings_of(
    plan: Plan, options: argparse.Namespace, prediction: Prediction | None = None
) -> tuple[Fault, ...]:
    """What does not fit into the GPU that the command line or the spec names, or into the default one."""
    if all(module.model is None for module in plan.modules):
        return ()
    from ..advice.memory import memory_warnings  # noqa: PLC0415
    from ..cost.timing.hardware import DEFAULT, load_hardware  # noqa: PLC0415

    hardware = load_hardware(options.gpu or plan.gpu or DEFAULT)
    return memory_warnings(plan, hardware, prediction)


def notes_of(plan: Plan, prediction: Prediction) -> tuple[Fault, ...]:
    """What is slow about a plan and not wrong. There is none if a module has no model."""
    if not prediction.has_models:
        return ()
    from ..advice.notes import notes  # noqa: PLC0415

    return notes(plan, prediction)


def with_gains(plan: Plan, prediction: Prediction, warnings: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """The warnings, with what their remedies gain by the prediction if every module has a model."""
    if not warnings or not prediction.has_models:
        return warnings
    from ..advice import gains  # noqa: PLC0415

    return gains.with_gains(plan, prediction, warnings)


def _override(spec: Spec, options: argparse.Namespace) -> Spec:
    """The spec with the cluster of the command line."""
    given = {"nodes": options.nodes, "gpus_per_node": options.gpus_per_node}
    overrides = {name: value for name, value in given.items() if value is not None}
    if not overrides:
        return spec
    if options.world_size is not None and options.nodes is not None:
        raise MisuseError("--world-size and --nodes both say how many ranks there are: give one of them")
    import attrs  # noqa: PLC0415

    from ..spec.sections import Cluster  # noqa: PLC0415

    cluster = attrs.evolve(spec.cluster or Cluster(), **overrides)
    if cluster.nodes is not None and cluster.gpus_per_node is None:
        raise MisuseError("--nodes needs --gpus-per-node: the spec does not say how many GPUs a node has")
    return attrs.evolve(spec, cluster=cluster)
