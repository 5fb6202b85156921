"""Twenty faults that leave a run looking well: planted in a trainer on one rank, unless said, from step 1 on.

A plant is a function of a trainer that makes it wrong. Those of initial weights act at once; the others act in step 1,
after a step 0 that is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import attrs
import torch

import executor.bridge.endpoint
import executor.commands.trainer
import executor.training.gradients
from executor.checks.world import InconsistentError
from executor.commands.trainer import Trainer, TrainSettings
from executor.model.model import modules_of
from executor.training.synthetic_data import Synthetic
from planner import Plan
from tests.executor.jobs.jobs import ready

STEP = 1  # in which what is planted begins
_EPSILON = 1e-3


@attrs.define(eq=False)
class Plant:
    """What a plant may use: the trainer, whether this rank is the victim, and what undoes the patches."""

    trainer: Trainer
    is_victim: bool
    patches: ExitStack
    step: int = 0

    @property
    def acts(self) -> bool:
        return self.is_victim and self.step >= STEP

    def parameter(self, module: str, part: str) -> torch.Tensor:
        """The first parameter of a module whose name holds `part`."""
        named = dict(modules_of(self.trainer.model))[module].named_parameters()
        return next(one for name, one in named if part in name)

    def replace(self, owner: Any, name: str, made: Callable[[Any], Any]) -> None:
        """Put `made(real)` in the place of an attribute."""
        self.patches.enter_context(mock.patch.object(owner, name, made(getattr(owner, name))))


def changed_key(key: str) -> Callable[[Plant], None]:
    """The victim draws another value of one key, in the last sample."""

    def plant(with_: Plant) -> None:
        def made(real: Any) -> Any:
            def as_batch(self: Any, encoders: Any) -> Any:
                batch = real(self, encoders)
                if with_.acts:
                    found = batch["modality_inputs"]["images"]["vit"] if key == "pixels" else batch
                    name = "inputs" if key == "pixels" else key
                    found[name] = found[name].clone()
                    found[name][-1, ..., 0] += 1
                return batch

            return as_batch

        with_.replace(executor.commands.trainer.Microbatch, "as_batch", made)

    return plant


def reordered(with_: Plant) -> None:
    """The victim's lane takes its own samples, the last one first."""

    def made(real: Any) -> Any:
        def batch_of_rank(*args: Any) -> Any:
            given = real(*args)
            if with_.acts:
                given = {
                    key: value.flip(0) if isinstance(value, torch.Tensor) else value for key, value in given.items()
                }
            return given

        return batch_of_rank

    with_.replace(executor.commands.trainer, "batch_of_rank", made)


def shifted(with_: Plant) -> None:
    """The victim takes its lane's samples one further on."""

    def made(real: Any) -> Any:
        def batch_of_rank(plan: Any, view: Any, batch: Any, num_items: Any) -> Any:
            if with_.acts:
                turned = {
                    key: torch.roll(value, -1, 0) if isinstance(value, torch.Tensor) else value
                    for key, value in batch.items()
                }
                return real(plan, view, turned, num_items)
            return real(plan, view, batch, num_items)

        return batch_of_rank

    with_.replace(executor.commands.trainer, "batch_of_rank", made)


def initial(module: str, part: str) -> Callable[[Plant], None]:
    """The victim starts from another weight."""

    def plant(with_: Plant) -> None:
        if with_.is_victim:
            with torch.no_grad():
                with_.parameter(module, part).view(-1)[0] += _EPSILON

    return plant


def later(with_: Plant) -> None:
    """A weight of the victim, which has no copy anywhere, changes between two steps."""

    def made(real: Any) -> Any:
        def step(number: int) -> Any:
            if with_.is_victim and number == STEP:
                with torch.no_grad():
                    with_.parameter("language", "linear_qkv").view(-1)[0] += _EPSILON
            return real(number)

        return step

    with_.replace(with_.trainer, "step", made)


def doubled_gradient(*, before: bool) -> Callable[[Plant], None]:
    """The victim's gradients of one module are twice what they are, before or after they are reduced."""

    def double(module: Any) -> None:
        for buffer in module.buffers:
            buffer.grad_data.mul_(2)

    def plant(with_: Plant) -> None:
        def made(real: Any) -> Any:
            def finalize(modules: list[Any], *args: Any, **kwargs: Any) -> Any:
                if with_.acts and before:
                    double(modules[0])
                real(modules, *args, **kwargs)
                if with_.acts and not before:
                    double(modules[0])

            return finalize

        with_.replace(executor.training.gradients, "finalize_model_grads", made)

    return plant


def more_tokens(with_: Plant) -> None:
    """The victim counts five tokens too many."""

    def made(real: Any) -> Any:
        def count(num_tokens: Any, infra: Any) -> int:
            return real(num_tokens + 5 if with_.acts else num_tokens, infra)

        return count

    with_.replace(executor.training.gradients, "_count", made)


def stretched(with_: Plant) -> None:
    """What the victim's lane sends over the bridge is a thousandth too large."""

    def made(real: Any) -> Any:
        def rows(self: Any, value: torch.Tensor) -> Any:
            flat, in_flight = real(self, value)
            return (flat * 1.001 if with_.acts else flat), in_flight

        return rows

    with_.replace(executor.bridge.endpoint.Endpoint, "rows", made)


def doubled_backward(with_: Plant) -> None:
    """All lanes send twice the gradient back over the bridge."""

    def made(real: Any) -> Any:
        def gradient(self: Any, value: torch.Tensor) -> torch.Tensor:
            return real(self, value) * (2 if with_.step >= STEP else 1)

        return gradient

    with_.replace(executor.bridge.endpoint.Endpoint, "gradient", made)


def other_rate(with_: Plant) -> None:
    """The victim's learning rate is twice that of the others."""

    def made(real: Any) -> Any:
        def step(number: int) -> Any:
            if with_.is_victim and number == STEP:
                for info in with_.trainer._optimizer.module_infos.values():
                    for group in info.optimizer.param_groups if info.optimizer is not None else ():
                        group["lr"] *= 2
            return real(number)

        return step

    with_.replace(with_.trainer, "step", made)


def own_rates(with_: Plant) -> None:
    """No fault: every module has a learning rate of its own, equal on all of its ranks."""
    for number, info in enumerate(with_.trainer._optimizer.module_infos.values()):
        for group in info.optimizer.param_groups if info.optimizer is not None else ():
            group["lr"] *= 1 + number


def kept(*, own_shard: bool) -> Callable[[Plant], None]:
    """After an update the victim has its former weights again: all of them, or all but the shard that it updates."""

    def plant(with_: Plant) -> None:
        def made(real: Any) -> Any:
            def step() -> Any:
                buffers = [buffer for _, module in modules_of(with_.trainer.model) for buffer in module.buffers]
                parameters = list(with_.trainer.model.parameters())
                saved = [parameter.detach().clone() for parameter in parameters]
                own = [_own_shard(buffer).clone() for buffer in buffers] if own_shard else []
                outcome = real()
                if with_.acts:
                    new = [_own_shard(buffer).clone() for buffer in buffers] if own_shard else []
                    with torch.no_grad():
                        for parameter, former in zip(parameters, saved, strict=True):
                            parameter.copy_(former)
                        for buffer, shard in zip(buffers, new, strict=False):
                            _own_shard(buffer).copy_(shard)
                del own
                return outcome

            return step

        with_.replace(with_.trainer._optimizer, "step", made)

    return plant


def _own_shard(buffer: Any) -> torch.Tensor:
    """The part of a module's weights that this rank's distributed optimizer updates."""
    shards: torch.Tensor = buffer.param_data.view(buffer.data_parallel_group.size(), -1)
    return shards[buffer.data_parallel_group.rank()]


@contextmanager
def _made(plan: Plan, groups: Any, context: Any, name: str, victim: int, sharded: bool) -> Iterator[Plant]:
    optimizer = "adam" if sharded else "sgd"
    settings = TrainSettings(dtype="fp32", optimizer=optimizer, lr=0.1, distributed_optimizer=sharded)
    trainer = Trainer(plan, groups, Synthetic(plan, seed=7), settings, context.device, check_every=1)
    with ExitStack() as patches:
        with_ = Plant(trainer, context.rank == victim, patches)
        PLANTS[name](with_)
        yield with_


def caught(text: str, cases: list[tuple[str, int, bool]]) -> list[tuple[int, str]]:
    """For each (plant, victim, whether the optimizer is sharded): the step that stops this rank, and what it says."""
    plan = Plan.from_json(text)
    found = []
    with ready(plan) as (context, groups):
        for name, victim, sharded in cases:
            with _made(plan, groups, context, name, victim, sharded) as planted:
                told = (-1, "")
                for step in range(STEP + 2):
                    planted.step = step
                    try:
                        planted.trainer.step(step)
                    except InconsistentError as error:
                        told = (step, str(error))
                        break
                found.append(told)
    return found


PLANTS: dict[str, Callable[[Plant], None]] = {
    "none": lambda _: None,
    "none, own rates": own_rates,
    "input_ids": changed_key("input_ids"),
    "labels": changed_key("labels"),
    "loss_mask": changed_key("loss_mask"),
    "position_ids": changed_key("position_ids"),
    "pixels": changed_key("pixels"),
    "reordered": reordered,
    "shifted": shifted,
    "initial weight of a lane": initial("language", "linear_qkv"),
    "initial norm of a tp rank": initial("language", "layernorm"),
    "initial tied copy": initial("language", "output_layer"),
    "initial frozen weight": initial("images", "linear_qkv"),
    "weight after a step": later,
    "gradient before reduction": doubled_gradient(before=True),
    "gradient after reduction": doubled_gradient(before=False),
    "token count": more_tokens,
    "bridge forward": stretched,
    "bridge backward": doubled_backward,
    "learning rate": other_rate,
    "gather left out": kept(own_shard=True),
    "update skipped": kept(own_shard=False),
}
