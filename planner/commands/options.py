"""What commands take: counts, GPUs, sizes of the world, the plan in a file."""

from __future__ import annotations

import argparse

import attrs

from ..plan import Plan
from ..spec.fields import MAX_SIZE
from ..spec.sections import Cluster
from ..spec.spec import Spec


class MisuseError(Exception):
    """The command was given something that it does not take; the message says what it takes."""


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """--gpu: what to predict for."""
    parser.add_argument("--gpu", metavar="NAME", help="GPU, or a hardware file (.yaml); else the spec's cluster.gpu")


def add_world(parser: argparse.ArgumentParser) -> None:
    """How many ranks and nodes, in the place of the spec's."""
    parser.add_argument("--world-size", type=count(1), metavar="N", help="number of ranks, whatever the cluster says")
    parser.add_argument("--nodes", type=count(1), metavar="N", help="override cluster.nodes")
    parser.add_argument("--gpus-per-node", type=count(1), metavar="N", help="override cluster.gpus_per_node")


def add_color(parser: argparse.ArgumentParser) -> None:
    """--color: whether to print colour codes."""
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour codes (default: on a terminal)",
    )


def count(low: int) -> type[int]:
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


def load(path: str, options: argparse.Namespace) -> Plan:
    """The plan in a file: a plan document, or a spec that is compiled with the overrides of the command line."""
    from ..passes.compile import compile_spec  # noqa: PLC0415
    from ..plan_file import read_plan_or_spec  # noqa: PLC0415

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
