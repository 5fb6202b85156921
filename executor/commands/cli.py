"""The executor's commands, check and train. A process runs as one rank, started by torchrun or alone.

Exit codes: 0 done, 1 something was wrong, 2 misuse of the command. If several ranks fail, one of them speaks. torch is
imported once a command runs: help, --version and the misuse of a single process need only the standard library.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from planner.base.printable import printable_lines
from planner.base.version import package_version
from planner.commands.options import MisuseError, Version, integer, number
from planner.limits.layers import Layers

from ..errors import ExecutorError, LostPeerError
from ..start import DEFAULT_TIMEOUT
from ..watch.guard import Guard
from .options import Parser

if TYPE_CHECKING:
    from planner import Plan

    from ..groups.creation_log import CreationLog
    from ..start.context import Context
    from ..watch.ending import Ending
    from .metrics import Metrics
    from .predicted import Predicted
    from .trainer import Step, TrainSettings

OK, FAULTS, MISUSE = 0, 1, 2
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EPIPE, errno.EBADF, errno.EIO)
_CHECK_EVERY = 100  # steps; as checks/consistency.py, which imports torch
_DAY = 86400.0  # seconds
_MAX_LR = 1e6  # as in a spec
_MAX_INTEGER = 2**32 - 1


def main(arguments: Sequence[str] | None = None, guard: Guard | None = None) -> int:
    """Run one command as one rank and return its exit code.

    Args:
        guard: what ends the process if it is stuck; without a started one, nothing does.
    """
    guard = guard or Guard()
    try:
        options, misuse = _parser().parse_args(arguments), None
    except MisuseError as error:
        if _is_alone():
            print(f"executor: {printable_lines(str(error))}", file=sys.stderr, flush=True)
            return MISUSE
        options, misuse = argparse.Namespace(timeout=DEFAULT_TIMEOUT.total_seconds()), error
    guard.arm(options.timeout)
    try:
        code = _run(options, misuse, guard)
        _flush()
    except MisuseError as error:
        return _speak(guard, str(error), MISUSE)
    except Exception as error:  # one of several ranks must say what it was
        is_silent = not getattr(error, "speaks", True)  # UnmetError: ranks that never met cannot settle who speaks
        return _speak(guard, *_told(error, options.timeout, guard), is_silent=is_silent)
    guard.ending.leave()
    return code


def _run(options: argparse.Namespace, misuse: MisuseError | None, guard: Guard) -> int:
    """Connect to the other ranks, and run the command."""
    from torch.distributed import DistNetworkError  # noqa: PLC0415  help and the misuse of one rank need no torch

    from ..start.context import connect, leave  # noqa: PLC0415
    from ..start.meet import UnmetError  # noqa: PLC0415
    from ..start.versions import check_versions  # noqa: PLC0415
    from ..watch.heartbeat import Heartbeats, interval_of, serves_store, store_address, store_server  # noqa: PLC0415

    try:
        context = connect(timedelta(seconds=options.timeout))
    except UnmetError as error:
        raise misuse or error from None
    except (ExecutorError, RuntimeError, OSError) as error:
        if not isinstance(error, DistNetworkError):
            served = ""
        elif serves_store():
            served = "\nthis rank serves the store: choose a MASTER_PORT at which nobody listens"
        else:
            served = f"\nthe store at {store_address()} is served by {store_server()}, which did not come"
        raise ExecutorError(f"cannot meet the other ranks: {_first_line(error)}{served}") from error
    guard.ending.beats = Heartbeats(context.store, context.rank, context.world_size, interval_of(options.timeout))
    guard.ending.beats.start()
    guard.ending.farewell = lambda reason: leave(context, reason)
    if misuse:
        raise misuse
    check_versions()
    code: int = options.run(options, context, guard.ending)
    return code


def _first_line(error: Exception) -> str:
    """An error's first line: torch appends where in its own code it stood."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _is_alone() -> bool:
    """Whether there is no other rank to agree with on who speaks."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def _flush() -> None:
    """Write what is still buffered, so that a full disk is an error here and not at the interpreter's exit."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _speak(guard: Guard, text: str, code: int = FAULTS, looks: float = 0.0, *, is_silent: bool = False) -> int:
    """Print a message, if it is this rank that speaks for the job, and return the exit code."""
    said = guard.ending.speak(printable_lines(text), code, looks=looks, is_silent=is_silent)
    if said is None:  # the guard's thread ends this process just now
        threading.Event().wait()
    return code


def _told(error: Exception, timeout: float, guard: Guard) -> tuple[str, int, float]:
    """What to say of an error, the exit code, and for how many seconds to look for lost ranks."""
    from planner import PlanError  # noqa: PLC0415

    if isinstance(error, ExecutorError | PlanError):
        return str(error), FAULTS, guard.look_seconds() if isinstance(error, LostPeerError) else 0.0
    if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
        where = f" {error.filename}" if error.filename else ""
        return f"rank {os.environ.get('RANK', '0')} cannot write{where}: {error.strerror}", FAULTS, 0.0
    from ..start.lost_ranks import describe, is_lost_rank  # noqa: PLC0415

    rank = int(os.environ.get("RANK", "0"))
    if is_lost_rank(error):
        return describe(error, rank, timedelta(seconds=timeout)), FAULTS, guard.look_seconds()
    return f"rank {rank} failed:\n{traceback.format_exc()}", FAULTS, 0.0


def _versions() -> str:
    """The versions of this package and of what it runs on, read from their metadata."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    found = []
    for package in ("torch", "megatron-core"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return f"executor {package_version()} ({', '.join(found)})"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m executor", description="Run a plan under torchrun.")
    parser.add_argument("--version", action=Version, line=_versions)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="create every group and bridge of a plan, and prove them")
    check.set_defaults(run=_check)
    train = commands.add_parser("train", help="train the spec's model on synthetic batches")
    train.set_defaults(run=_train)
    for command in (check, train):
        command.add_argument("plan", metavar="SPEC_OR_PLAN", help="a spec (YAML) or a plan (JSON)")
        command.add_argument(
            "--target",
            type=Layers,
            choices=list(Layers),
            help="whose layers are built: megatron-core's or Transformer Engine's (default: te on a GPU that has it)",
        )
        command.add_argument(
            "--timeout",
            type=number(_DAY),
            default=DEFAULT_TIMEOUT.total_seconds(),
            metavar="SECONDS",
            help=f"how long a rank waits for another (default: {DEFAULT_TIMEOUT.total_seconds():.0f})",
        )
        command.add_argument(
            "--any-node-shape", action="store_true", help="run even if ranks do not lie on nodes as the plan says"
        )
    train.add_argument(
        "--steps",
        type=integer(1, _MAX_INTEGER),
        default=20,
        metavar="N",
        help="optimizer steps (default: 20)",
    )
    train.add_argument("--metrics", metavar="FILE", help="append one JSON object per step to FILE; - prints them")
    train.add_argument("--dtype", choices=("fp32", "bf16"), help="dtype of the model, instead of the spec's")
    train.add_argument(
        "--seed", type=integer(0, _MAX_INTEGER), default=1234, help="seed of the weights and the data (default: 1234)"
    )
    checks = train.add_mutually_exclusive_group()
    checks.add_argument(
        "--check-every",
        type=integer(1, _MAX_INTEGER),
        default=_CHECK_EVERY,
        metavar="N",
        help=f"check data, weights and gradients on all ranks at step 0 and every N steps (default: {_CHECK_EVERY})",
    )
    checks.add_argument("--no-check", action="store_true", help="check neither groups nor data, weights and gradients")
    train.add_argument("--optimizer", choices=("sgd", "adam"), help="the optimizer, instead of the spec's")
    train.add_argument("--lr", type=number(_MAX_LR), help="learning rate, instead of the spec's")
    train.add_argument(
        "--reference", action="store_true", help="train the same model on one rank, with the same data and seed"
    )
    return parser


def _log(plan: Plan, ending: Ending) -> CreationLog:
    """A log of the groups that this rank creates, which is published and explains a failure if plans differ."""
    from ..groups.creation_log import CreationLog, explain  # noqa: PLC0415

    log = CreationLog()
    ending.explain = lambda records: explain(records, plan)
    if ending.beats is not None:
        ending.beats.record = log.record
    return log


def _load(path: str) -> Plan:
    """The plan in a file. The GPU of a spec must be known; a plan document is read whatever GPU it names."""
    from planner import Plan  # noqa: PLC0415
    from planner.cost.timing.hardware import compile_on_known_gpu  # noqa: PLC0415
    from planner.plan_file import read_plan_or_spec  # noqa: PLC0415

    found = read_plan_or_spec(path)
    return found if isinstance(found, Plan) else compile_on_known_gpu(found)


def _check(options: argparse.Namespace, context: Context, ending: Ending) -> int:
    from ..start.context import started  # noqa: PLC0415
    from ..start.limits import refusal  # noqa: PLC0415

    plan = _load(options.plan)  # the groups and bridges of any plan can be tried; `train` refuses what cannot train
    _quiet()
    with started(context, plan.digest, plan.world_size, {"command": "check"}, **_nodes(plan, options)) as told:
        _tell(told, context)
        from ..checks.groups import check  # noqa: PLC0415
        from ..groups.groups import ProcessGroups  # noqa: PLC0415
        from ..library.compare import check_layout  # noqa: PLC0415
        from . import console  # noqa: PLC0415  imports megatron-core: seconds, once the ranks agree

        groups = ProcessGroups(plan, context.rank, context.timeout, log=_log(plan, ending))
        check_layout(groups)
        reports = console.gather(check(groups, context.device), groups)
        if context.is_first:
            print(console.table(plan, reports))
            print(f"\n{console.verdict(reports)}")
            reason = refusal(plan, options.target)
            print(f"`train` would refuse this plan: {reason}" if reason else "`train` would run this plan", flush=True)
        return FAULTS if console.faults_of(reports) else OK


def _nodes(plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    """What the plan says of nodes, for `started`."""
    return {"gpus_per_node": plan.gpus_per_node, "any_node_shape": options.any_node_shape}


def _tell(told: str, context: Context, option: str = "--any-node-shape") -> None:
    """Log, once for the job, what an option allows."""
    if told and context.is_first:
        print(f"executor: {option}: {told}", file=sys.stderr, flush=True)


def _train(options: argparse.Namespace, context: Context, ending: Ending) -> int:
    if options.reference and context.world_size > 1:
        raise MisuseError(f"--reference runs on one rank: start one process, got {context.world_size}")
    from .metrics import Metrics, metrics_output  # noqa: PLC0415

    metrics = metrics_output(options.metrics, options.plan) if context.is_first else None
    original = _load(options.plan)
    _quiet()
    from ..start.context import started  # noqa: PLC0415
    from ..start.layer_backend import ask_for  # noqa: PLC0415
    from ..start.limits import check_limits, with_training  # noqa: PLC0415
    from .reference import reference_of  # noqa: PLC0415

    plan = reference_of(original) if options.reference else original
    ask_for(options.target)
    check_limits(with_training(plan, dtype=options.dtype, optimizer=options.optimizer, lr=options.lr))
    from .trainer import TrainSettings  # noqa: PLC0415  imports megatron-core, before others wait for this rank

    settings = TrainSettings.of(
        plan, dtype=options.dtype, optimizer=options.optimizer, lr=options.lr, seed=options.seed
    )
    names = ("dtype", "lr", "optimizer", "seed", "steps", "target", "check_every", "no_check")
    given = {name: getattr(options, name) for name in names}
    agreed = {"command": "train", **{f"--{name.replace('_', '-')}": str(value) for name, value in given.items()}}
    with started(context, plan.digest, plan.world_size, agreed, **_nodes(plan, options)) as told:
        _tell(told, context)
        if metrics:
            metrics.check_inputs()  # of all that the spec names
        written = Metrics(metrics, context.run) if metrics else None
        _steps(plan, original, settings, options, context, log=_log(plan, ending), metrics=written)
    return OK


def _steps(
    plan: Plan,
    original: Plan,
    settings: TrainSettings,
    options: argparse.Namespace,
    context: Context,
    *,
    log: CreationLog,
    metrics: Metrics | None,
) -> None:
    from ..checks.groups import check_groups  # noqa: PLC0415
    from ..checks.world import raise_together  # noqa: PLC0415
    from ..groups.groups import ProcessGroups  # noqa: PLC0415
    from ..training.synthetic_data import Synthetic  # noqa: PLC0415  imports megatron-core
    from .trainer import Trainer  # noqa: PLC0415

    groups = ProcessGroups(plan, context.rank, context.timeout, log=log)
    if options.no_check:
        _tell("neither groups nor data, weights and gradients are checked", context, "--no-check")
    else:
        raise_together(list(check_groups(groups, context.device)), 0, context.device)
    every = 0 if options.no_check else options.check_every
    samples = Synthetic(original, options.seed)
    trainer = Trainer(plan, groups, samples, settings, context.device, check_every=every)
    if context.is_first:
        from .predicted import predicted_of  # noqa: PLC0415  on this rank only

        predicted = predicted_of(plan, settings, original.cluster.gpu if original.cluster else None)
        _print_steps(trainer.run(options.steps), predicted, metrics)
        return
    for _ in trainer.run(options.steps):
        pass


def _print_steps(running: Iterator[Step], predicted: Predicted, metrics: Metrics | None) -> None:
    """Print each step as it ends, and at the end how it compares with the prediction. For rank 0."""
    from .console import step_line  # noqa: PLC0415  imports megatron-core
    from .predicted import device_name, summary  # noqa: PLC0415  on this rank only

    steps, runs_on = [], device_name()
    out = sys.stderr if metrics and metrics.is_stdout else sys.stdout
    for step in running:
        steps.append(step)
        print(step_line(step), file=out, flush=True)
        if metrics:
            metrics.write(step.metrics() | {"device": runs_on} | predicted.metrics())
    for line in summary(predicted, steps, runs_on):
        print(line, file=out, flush=True)


def _quiet() -> None:
    """Silence the warnings that megatron-core and torch give on every rank: none of them is about the plan."""
    warnings.simplefilter("ignore")
    import logging  # noqa: PLC0415

    logging.disable(logging.WARNING)
