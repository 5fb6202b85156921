"""The executor's commands: check and train. Started once per rank, by torchrun or alone.

Exit codes: 0 done, 1 something was wrong, 2 misuse of the command. Of several failing ranks one speaks.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner import Plan, PlanError
from planner.plan_file import load_plan

from ..errors import ExecutorError
from ..megatron_limits import check_limits, check_version
from ..start.context import DEFAULT_TIMEOUT, Context, connect, leave, started
from ..start.lost_ranks import describe, is_lost_rank
from .options import MisuseError, Parser, check_writable, integer, number

if TYPE_CHECKING:
    from .predicted import Predicted
    from .trainer import Step, TrainSettings

OK, FAULTS, MISUSE = 0, 1, 2
_DAY = 86400.0  # seconds
_MAX_LR = 1e6  # as a spec's


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command as one rank and return its exit code."""
    try:
        options, misuse = _parser().parse_args(arguments), None
    except MisuseError as error:
        options, misuse = argparse.Namespace(timeout=DEFAULT_TIMEOUT.total_seconds()), error
    try:
        context = connect(timedelta(seconds=options.timeout))
    except (ExecutorError, RuntimeError, OSError) as error:
        print(f"executor: cannot meet the other ranks: {error}", file=sys.stderr, flush=True)
        return FAULTS
    try:
        if misuse:
            raise misuse
        code: int = options.run(options, context)
    except MisuseError as error:
        return _speak(context, str(error), MISUSE)
    except (ExecutorError, PlanError) as error:
        return _speak(context, str(error))
    except Exception as error:  # one of several ranks must say what it was
        return _speak(context, _unexpected(context, error))
    return code


def _speak(context: Context, text: str, code: int = FAULTS) -> int:
    if context.claim.is_first():
        print(f"executor: {text}", file=sys.stderr, flush=True)
    leave(context)
    return code


def _unexpected(context: Context, error: Exception) -> str:
    """A traceback; but two lines where another rank is the cause."""
    if is_lost_rank(error):
        return describe(error, context.rank, context.timeout)
    return f"rank {context.rank} failed:\n{traceback.format_exc()}"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m executor", description="Run a plan under torchrun.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="create every group and bridge, and prove them")
    check.set_defaults(run=_check)
    train = commands.add_parser("train", help="train the spec's model on synthetic batches")
    train.set_defaults(run=_train)
    for command in (check, train):
        command.add_argument("plan", metavar="SPEC_OR_PLAN", help="spec (YAML) or plan (JSON)")
        command.add_argument(
            "--timeout", type=number(_DAY), default=DEFAULT_TIMEOUT.total_seconds(), metavar="S", help="wait for others"
        )
    train.add_argument("--steps", type=integer(1), default=20, metavar="N", help="optimizer steps (default 20)")
    train.add_argument("--metrics", type=Path, metavar="FILE", help="write one JSON object per step")
    train.add_argument("--dtype", choices=("fp32", "bf16"), help="the spec's, if left out")
    train.add_argument("--seed", type=integer(0), default=1234, help="of weights and data (default 1234)")
    train.add_argument("--optimizer", choices=("sgd", "adam"), help="the spec's, if left out")
    train.add_argument("--lr", type=number(_MAX_LR), help="learning rate; the spec's, if left out")
    train.add_argument("--reference", action="store_true", help="the same model, data and seed on one rank")
    return parser


def _check(options: argparse.Namespace, context: Context) -> int:
    plan = load_plan(options.plan)
    check_version()  # groups and bridges of any plan can be tried; what cannot be trained is for `train` to refuse
    _quiet()
    with started(context, plan.digest, plan.world_size):
        from ..groups.groups import ProcessGroups  # noqa: PLC0415
        from ..library.compare import check_layout  # noqa: PLC0415
        from . import console  # noqa: PLC0415  imports megatron-core: seconds, once the ranks agree
        from .check import check  # noqa: PLC0415

        groups = ProcessGroups(plan, context.rank, context.timeout)
        check_layout(groups)
        reports = console.gather(check(groups, context.device), groups)
        if context.is_first:
            print(console.table(plan, reports))
            print(f"\n{console.verdict(reports)}", flush=True)
        return FAULTS if console.faults_of(reports) else OK


def _train(options: argparse.Namespace, context: Context) -> int:
    if options.reference and context.world_size > 1:
        raise MisuseError(f"--reference runs on one rank: start one process, got {context.world_size}")
    if options.metrics is not None and context.is_first:
        check_writable("--metrics", options.metrics)
    original = load_plan(options.plan)
    _quiet()
    from ..training.synthetic_data import check_items  # noqa: PLC0415  imports megatron-core, before others wait for this rank
    from .reference import reference_of  # noqa: PLC0415
    from .trainer import TrainSettings  # noqa: PLC0415

    plan = reference_of(original) if options.reference else original
    check_limits(plan)
    check_items(original)
    settings = TrainSettings.of(
        plan, dtype=options.dtype, optimizer=options.optimizer, lr=options.lr, seed=options.seed
    )
    given = {name: getattr(options, name) for name in ("dtype", "lr", "optimizer", "seed", "steps")}
    with started(context, plan.digest, plan.world_size, {name: str(value) for name, value in given.items()}):
        _steps(plan, original, settings, options, context)
    return OK


def _steps(plan: Plan, original: Plan, settings: TrainSettings, options: argparse.Namespace, context: Context) -> None:
    from ..groups.groups import ProcessGroups  # noqa: PLC0415
    from ..training.synthetic_data import Synthetic  # noqa: PLC0415  imports megatron-core
    from .trainer import Trainer  # noqa: PLC0415

    groups = ProcessGroups(plan, context.rank, context.timeout)
    trainer = Trainer(plan, groups, Synthetic(original, options.seed), settings, context.device)
    if context.is_first:
        from .predicted import predicted_of  # noqa: PLC0415  on this rank only

        predicted = predicted_of(plan, settings, original.cluster.gpu if original.cluster else None)
        _print_steps(trainer.run(options.steps), predicted, options.metrics)
        return
    for _ in trainer.run(options.steps):
        pass


def _print_steps(running: Iterator[Step], predicted: Predicted, metrics: Path | None) -> None:
    """What rank 0 says of the steps as they end, and of their prediction at the end."""
    from .console import step_line  # noqa: PLC0415  imports megatron-core
    from .predicted import device_name, summary  # noqa: PLC0415  on this rank only

    steps, runs_on = [], device_name()
    with metrics.open("w", encoding="ascii") if metrics else nullcontext() as stream:
        for step in running:
            steps.append(step)
            print(step_line(step), flush=True)
            if stream is not None:
                _write_line(stream, step.metrics() | {"device": runs_on} | predicted.metrics())
    for line in summary(predicted, steps, runs_on):
        print(line, flush=True)


def _write_line(stream: Any, metrics: dict[str, Any]) -> None:
    """A whole line at once, so that a reader never sees half of one."""
    stream.write(json.dumps(metrics) + "\n")
    stream.flush()


def _quiet() -> None:
    """Silence what megatron-core and torch warn of on every rank: none of it is about the plan."""
    warnings.simplefilter("ignore")
    import logging  # noqa: PLC0415

    logging.disable(logging.WARNING)
