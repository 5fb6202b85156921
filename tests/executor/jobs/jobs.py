"""What most tests run on ranks: training, checks, commands. Results are plain data: numpy arrays, numbers, text."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any
from unittest import mock

import attrs
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import executor.checks.groups
import executor.commands.cli
import executor.commands.trainer
import executor.groups.group_names
import executor.groups.groups
import executor.library.compare
from executor.commands.reference import reference_of
from executor.commands.trainer import Trainer, TrainSettings
from executor.errors import ExecutorError
from executor.groups.creation_log import Creation
from executor.groups.grids import build_grids
from executor.groups.groups import ProcessGroups
from executor.library.compare import check_layout
from executor.model.meta_device import on_meta
from executor.model.model import build_model, modules_of
from executor.model.weights import shards_of
from executor.start import device
from executor.start.context import Context, connect, started
from executor.start.limits import check_limits
from executor.start.versions import Versions
from executor.training.ddp import default_config
from executor.training.slicing import batch_of_rank
from executor.training.synthetic_data import Synthetic
from planner import Plan
from planner.layout.ir import RankView
from tests.executor.jobs import (
    faults,
    preload,  # noqa: F401
)

TIMEOUT = timedelta(seconds=60)


@contextmanager
def ready(plan: Plan, *, limited: bool = True) -> Iterator[tuple[Context, ProcessGroups]]:
    if limited:
        check_limits(plan)
    context = connect(TIMEOUT)
    with started(context, plan.digest, plan.world_size):
        yield context, ProcessGroups(plan, context.rank, context.timeout)


def train(text: str, options: dict[str, Any], *, reference: bool = False) -> dict[str, Any]:
    """Train. Gives the metrics of the steps, and this rank's slices of the final weights."""
    original = Plan.from_json(text)
    plan = reference_of(original) if reference else original
    only = {name: tuple(options.get(name, ())) for name in ("text_only", "text_only_steps")}
    samples = Synthetic(original, seed=7, **only)
    with ready(plan) as (context, groups), faults.planted(options.get("fault", ""), groups), overlap(options):
        settings = TrainSettings(
            dtype=options.get("dtype", "fp32"),
            optimizer=options.get("optimizer", "sgd"),
            lr=options.get("lr", 0.1),
            distributed_optimizer=options.get("distributed_optimizer", False),
        )
        every = options.get("check_every", 0)
        trainer = Trainer(plan, groups, samples, settings, context.device, check_every=every)
        steps = [(step.loss, step.grad_norm, step.num_tokens) for step in trainer.run(options.get("steps", 3))]
        parts = [
            (shard.key, shard.shape, shard.index, shard.data.detach().float().numpy().copy())
            for shard in shards_of(trainer.model)
        ]
        return {"steps": steps, "parts": parts}


@contextmanager
def overlap(options: dict[str, Any]) -> Iterator[None]:
    """Reduce gradients while the backward pass runs, if the options ask for it."""
    asked = dataclasses.replace(default_config(), overlap_grad_reduce=options.get("overlap", False))
    with (
        mock.patch.object(executor.commands.trainer, "default_config", return_value=asked)
        if asked.overlap_grad_reduce
        else nullcontext()
    ):
        yield


def train_reference(text: str, options: dict[str, Any]) -> dict[str, Any]:
    return train(text, options, reference=True)


def loss_of_words(text: str) -> float:
    """The first step's loss by torch's cross entropy over the words alone, for one rank: an independent reference."""
    original = Plan.from_json(text)
    plan, samples = reference_of(original), Synthetic(original, seed=7)
    words = plan.module("language").model.vocab_size
    with ready(plan) as (context, groups):
        settings = TrainSettings(dtype="fp32", optimizer="sgd", lr=0.1, distributed_optimizer=False)
        model = Trainer(plan, groups, samples, settings, context.device).model
        total, count = 0.0, 0.0
        for index in range(plan.batch.num_microbatches):
            batch = samples.microbatch(0, index)
            arguments = batch_of_rank(plan, groups.view, batch.as_batch({"images": "vit"}), batch.num_items)
            labels = arguments.pop("labels")
            logits, mask = model(**arguments)
            losses = torch.nn.functional.cross_entropy(
                logits[..., :words].reshape(-1, words), labels.reshape(-1), reduction="none"
            )
            total, count = total + float((losses * mask.reshape(-1)).sum()), count + float(mask.sum())
        return total / count


def padding_after_training(text: str) -> dict[str, Any]:
    """Rows of this rank's output layer, the largest number in those that are padding, and its shards after a step."""
    plan = Plan.from_json(text)
    words = plan.module("language").model.vocab_size
    with ready(plan) as (context, groups):
        settings = TrainSettings(dtype="fp32", optimizer="adam", lr=0.1, distributed_optimizer=False)
        trainer = Trainer(plan, groups, Synthetic(plan, seed=7), settings, context.device)
        trainer.step(0)
        parts = [
            (shard.key, shard.shape, shard.index, shard.data.detach().numpy().copy())
            for shard in shards_of(trainer.model)
        ]
        weights = [one for name, one in trainer.model.named_parameters() if name.endswith("output_layer.weight")]
        if not weights:
            return {"rows": 0, "largest": 0.0, "parts": parts}
        (weight,) = weights
        first = groups.get("language", "tp").rank() * len(weight)
        padding = weight.detach()[max(0, words - first) :]
        return {"rows": len(weight), "largest": float(padding.abs().max()), "parts": parts}


def train_with_bad_gradients(text: str, victim: int) -> tuple[list[bool], str]:
    """Take a second step in which one rank's gradients are said not to be finite: which weights are kept; the error."""
    plan = Plan.from_json(text)
    with ready(plan) as (context, groups):
        settings = TrainSettings(dtype="bf16", optimizer="sgd", lr=0.1, distributed_optimizer=False)
        trainer = Trainer(plan, groups, Synthetic(plan, seed=7), settings, context.device)
        trainer.step(0)
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        real = trainer._optimizer.prepare_grads
        trainer._optimizer.prepare_grads = lambda: real() or context.rank == victim
        try:
            trainer.step(1)
            error = ""
        except ExecutorError as caught:
            error = str(caught)
        kept = [torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
        trainer._optimizer.prepare_grads = real
        return kept, f"{error}; then step {trainer.step(2).step}"


def train_with_nan(text: str, victim: int) -> tuple[str, bool]:
    """Take a step in fp32 in which one rank's gradients hold a NaN: this rank's error; whether its weights are kept."""
    plan = Plan.from_json(text)
    with ready(plan) as (context, groups):
        settings = TrainSettings(dtype="fp32", optimizer="sgd", lr=0.1, distributed_optimizer=False)
        trainer = Trainer(plan, groups, Synthetic(plan, seed=7), settings, context.device)
        if context.rank == victim:
            real = trainer._optimizer.prepare_grads

            def spoil() -> bool:
                next(iter(trainer.model.parameters())).main_grad.fill_(float("nan"))
                return bool(real())

            trainer._optimizer.prepare_grads = spoil
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        error = ""
        try:
            trainer.step(0)
        except ExecutorError as caught:
            error = str(caught)
        return error, all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def groups_made_while_training(text: str) -> list[int]:
    """torch's count of groups before the trainer is built, after it is, and after each of two steps."""
    plan = Plan.from_json(text)
    world = dist.distributed_c10d._world
    with ready(plan) as (context, groups):
        counts = [world.group_count]
        settings = TrainSettings(dtype="fp32", optimizer="sgd", lr=0.1, distributed_optimizer=False)
        trainer = Trainer(plan, groups, Synthetic(plan, seed=7, text_only=(1,)), settings, context.device)
        counts.append(world.group_count)
        for _ in trainer.run(2):
            counts.append(world.group_count)
        return counts


def groups_created(text: str) -> list[tuple[int, ...]]:
    """The ranks of every group that this rank asks torch for."""
    plan = Plan.from_json(text)
    real, made = dist.new_group, []

    def new_group(ranks: list[int], **options: Any) -> Any:
        made.append(tuple(ranks))
        return real(ranks, **options)

    with mock.patch.object(dist, "new_group", new_group), ready(plan):
        dist.barrier()  # nobody leaves while others still connect to it
        return made


def groups_of_transfers(text: str) -> dict[str, list[str]]:
    """For each operation between ranks, the owners and kinds of the groups in which a step issues it."""
    plan = Plan.from_json(text)
    found: dict[str, set[str]] = {}
    with ready(plan) as (context, groups), contextlib.ExitStack() as stack:
        settings = TrainSettings(dtype="fp32", optimizer="sgd", lr=0.1, distributed_optimizer=False)
        trainer = Trainer(plan, groups, Synthetic(plan, seed=7), settings, context.device)
        names: dict[int, set[str]] = {}
        for group, opened in groups:
            names.setdefault(id(opened), set()).add(f"{group.owner}:{group.kind}")

        def recorded(name: str, real: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                group = kwargs.get("group") or next((a for a in args if isinstance(a, dist.ProcessGroup)), None)
                found.setdefault(name, set()).update(names.get(id(group), {"world"}))
                return real(*args, **kwargs)

            return call

        for name in ("isend", "irecv", "send", "recv", "P2POp", "broadcast"):
            stack.enter_context(mock.patch.object(dist, name, recorded(name, getattr(dist, name))))
        trainer.step(0)
    return {name: sorted(users) for name, users in found.items()}


def embedding_sums(text: str) -> float:
    """The sum of ranks, counted from 1, over this rank's embedding group of language; 0 if it has none."""
    with ready(Plan.from_json(text)) as (context, groups):
        group = groups.get("language", "embd")
        numbers = torch.tensor([float(context.rank + 1)])
        if group is not None:
            dist.all_reduce(numbers, group=group)
        return numbers.item() if group is not None else 0.0


def check(text: str, fault: str = "") -> dict[str, Any]:
    """What the executor's own check finds, with a planted fault if one is named."""
    with ready(Plan.from_json(text), limited=False) as (context, groups), faults.planted(fault, groups):
        check_layout(groups)
        found = executor.checks.groups.check(groups, context.device)
        return {"faults": list(found.faults), "bridges": [time.name for time in found.bridges]}


def communicators(text: str) -> dict[str, Any]:
    """Counts, and for each group the groups on the same communicator."""
    with ready(Plan.from_json(text)) as (_, groups):
        named = [(f"{group.owner}:{group.kind}", opened) for group, opened in groups]
        shared = {name: {other for other, known in named if known is opened} for name, opened in named}
        return {
            "num_groups": groups.start_up.num_groups,
            "num_communicators": groups.start_up.num_communicators,
            "num_opened": groups.num_opened,
            "singles": len({id(opened) for group, opened in groups if len(group.ranks) == 1}),
            "shared": shared,
        }


def grids(text: str) -> dict[str, Any]:
    """The members of every group for which megatron-core's optimizer and models ask a grid."""
    asked = {
        "tp": ("tp", None),
        "dp": ("dp", None),
        "pp": ("pp", None),
        "dp_cp": (["dp", "cp"], None),
        "mp": (["tp", "pp"], None),
        "intra_dist_opt": (["tp", "cp", "dp", "pp"], None),
        "tp_ep_pp": (["expt_tp", "ep", "pp"], "expert"),
        "expt_dp": ("expt_dp", "expert"),
    }
    plan = Plan.from_json(text)
    with ready(plan) as (context, groups):
        before = dist.distributed_c10d._world.group_count
        members = {}
        for name, grid in build_grids(plan, groups).items():
            if context.rank in plan.module(name).grid:
                for kind, (dims, view) in asked.items():
                    group = grid.get_pg(dims, view=view)
                    members[name, kind] = tuple(dist.get_process_group_ranks(group))
        try:
            grid.create_pg("tp")
        except RuntimeError as error:
            refusal = str(error)
        created = dist.distributed_c10d._world.group_count - before
        return {"members": members, "created": created, "refusal": refusal}


def groups_after_own_groups(text: str) -> list[Any]:
    """What `check_groups` says if each rank has made other groups of its own before, and torch's counter after it."""
    plan = Plan.from_json(text)
    world = dist.distributed_c10d._world
    with ready(plan) as (context, _):
        for _ in range(context.rank):
            dist.new_group([context.rank], use_local_synchronization=True)
        world.group_count = 3 * context.rank + 5
        groups = ProcessGroups(plan, context.rank, context.timeout)
        faults = list(executor.checks.groups.check_groups(groups, context.device))
        return ["; ".join(faults) or "all as planned", world.group_count]


def groups_of_a_bound_world(text: str) -> tuple[list[str], list[Any], Any]:
    """What `check_groups` says in a default group that is bound to a device, to what its groups are bound, and it."""
    plan = Plan.from_json(text)
    context = connect(TIMEOUT)
    with started(context, plan.digest, plan.world_size):
        default = dist.distributed_c10d._get_default_group()
        default.bound_device_id = torch.device("cuda:0")
        groups = ProcessGroups(plan, context.rank, context.timeout)
        bound = [process_group.bound_device_id for _, process_group in groups]
        kept, default.bound_device_id = default.bound_device_id, None
        return list(executor.checks.groups.check_groups(groups, context.device)), bound, str(kept)


def groups_of_a_stranger(text: str) -> list[str]:
    """What `check_groups` says if rank 0 calls itself rank 9."""
    plan = Plan.from_json(text)
    with ready(plan) as (context, groups):
        shown = 9 if context.rank == 0 else context.rank
        with mock.patch.object(ProcessGroups, "rank", shown):
            return list(executor.checks.groups.check_groups(groups, context.device))


def groups_without_given_names(text: str) -> tuple[str, list[int]]:
    """What stops a rank if torch names groups by itself, and the sizes of the groups that it made until then."""
    plan = Plan.from_json(text)
    context = connect(TIMEOUT)
    real, made = dist.new_group, []

    def new_group(ranks: list[int], **options: Any) -> Any:
        made.append(len(ranks))
        return real(ranks, **options)

    with (
        started(context, plan.digest, plan.world_size),
        mock.patch.object(executor.groups.group_names, "named", return_value=nullcontext()),
        mock.patch.object(dist, "new_group", new_group),
    ):
        try:
            ProcessGroups(plan, context.rank, context.timeout)
        except ExecutorError as error:
            return str(error), made
    return "", made


def groups_without_the_place(text: str) -> str:
    """What stops a rank if torch has no `_process_group_name`."""
    plan = Plan.from_json(text)
    context = connect(TIMEOUT)
    with started(context, plan.digest, plan.world_size):
        real = dist.distributed_c10d._process_group_name
        del dist.distributed_c10d._process_group_name
        try:
            ProcessGroups(plan, context.rank, context.timeout)
        except ExecutorError as error:
            return str(error)
        finally:
            dist.distributed_c10d._process_group_name = real
    return ""


class WithOneRankLess:
    """A plan whose first group of one kind of language has lost its last rank."""

    def __init__(self, plan: Plan, kind: str) -> None:
        self._plan, self._kind = plan, kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plan, name)

    def groups(self, owner: str, kind: str) -> list[tuple[int, ...]]:
        found = list(self._plan.groups(owner, kind))
        if (owner, kind) == ("language", self._kind):
            found[0] = found[0][:-1]
        return found


def compare_layouts(texts: list[str], kinds: list[str]) -> list[dict[str, str]]:
    """For each plan, what megatron-core's comparison says, on three ranks, of a fault in each kind of group."""
    results = []
    for text in texts:
        plan = Plan.from_json(text)
        errors = {}
        for rank in {0, plan.world_size // 2, plan.world_size - 1}:
            dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=plan.world_size)
            try:
                with device.ready():
                    groups = ProcessGroups(plan, rank)
                    check_layout(groups)
                    for kind in kinds:
                        groups.plan = WithOneRankLess(plan, kind)  # type: ignore[assignment]
                        try:
                            check_layout(groups)
                        except ExecutorError as error:
                            errors[kind] = str(error)
            finally:
                dist.destroy_process_group()
        results.append(errors)
    return results


def visible_gpus() -> tuple[str | None, int]:
    return os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()


def command(*arguments: str) -> tuple[int, str, str]:
    """Run the executor's command line as one rank: its exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = executor.commands.cli.main(arguments)
    return code, out.getvalue(), err.getvalue()


def command_on_own_plan(plans: list[str], *arguments: str) -> tuple[int, str, str]:
    """As `command`, but each rank has a plan file of its own."""
    return command(arguments[0], plans[int(os.environ["RANK"])], *arguments[1:])


def command_with_a_death(victim: int, *arguments: str) -> tuple[int, str, str]:
    """As `command`, but one rank dies in its second step, without a word."""
    if int(os.environ["RANK"]) == victim:
        real = Trainer.step

        def step(self: Trainer, number: int) -> Any:
            if number == 1:
                os._exit(9)
            return real(self, number)

        Trainer.step = step  # type: ignore[method-assign]
    return command(*arguments)


def command_without(absent: int, *arguments: str) -> tuple[int, str, str]:
    """As `command`, but one rank never starts."""
    return command(*arguments) if int(os.environ["RANK"]) != absent else (0, "", "")


def command_with_swapped_order(*arguments: str) -> tuple[int, str, str]:
    """As `command`, but on rank 0 language's tp group and its dp group change places in the order of creation."""
    real = executor.groups.groups.creations

    def swapped(plan: Plan, view: RankView, openers: tuple[int, ...], *, backward: bool) -> Iterator[Creation]:
        places = {found.kind: found.creation_index for found in view.groups if found.owner == "language"}
        other = {places["tp"]: places["dp"], places["dp"]: places["tp"]}
        for creation in real(plan, view, openers, backward=backward):
            yield attrs.evolve(creation, place=other.get(creation.place, creation.place))

    if os.environ["RANK"] != "0":
        return command(*arguments)
    with mock.patch.object(executor.groups.groups, "creations", swapped):
        return command(*arguments)


def command_with_another_megatron(*arguments: str) -> tuple[int, str, str]:
    """As `command`, but with a megatron-core that would make other embedding groups."""
    other = {"embd": lambda ranks: [ranks[0], ranks[-1]]}
    with mock.patch.object(executor.library.compare, "_EMBEDDINGS", other):
        return command(*arguments)


def command_with_version_on_one_rank(installed: str, *arguments: str) -> tuple[int, str, str]:
    """As `command`, but with another version of torch on rank 1 alone."""
    other = Versions(torch=installed, megatron_core="0.19.2")
    if os.environ["RANK"] != "1":
        return command(*arguments)
    with mock.patch.object(Versions, "installed", return_value=other):
        return command(*arguments)


def command_with_versions(torch: str, megatron_core: str, *arguments: str) -> tuple[int, str, str]:
    """As `command`, with these versions installed."""
    with mock.patch.object(Versions, "installed", return_value=Versions(torch, megatron_core)):
        return command(*arguments)


def parameters_of_ranks(text: str, ranks: list[int]) -> dict[int, dict[str, int]]:
    """The parameters of each module on some ranks, counted in this process on meta devices and a fake process group."""
    plan = Plan.from_json(text)
    found = {}
    for rank in ranks:
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=plan.world_size)
        try:
            with device.ready(), on_meta():
                model = build_model(plan, ProcessGroups(plan, rank), torch.float32, meta=True)
            found[rank] = {name: sum(p.numel() for p in module.parameters()) for name, module in modules_of(model)}
            assert all(parameter.is_meta for parameter in model.parameters())
        finally:
            dist.destroy_process_group()
    return found
