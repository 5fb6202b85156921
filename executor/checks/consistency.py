"""What is checked while a model trains: data, copies of weights and gradients, and the way of both between modules.

    checks = Checks(model, groups, optimizer, finalize, device, every=100)
    checks.before_step(step, microbatches)   # data, copies of weights, bridges and known gradients
    checks.before_update(num_tokens)         # reduced gradients, tokens, learning rates
    checks.after_update()                    # that weights moved, and their fingerprints for the next step

Data is compared before the schedule starts, because ranks of later stages wait in it for those of earlier ones. Every
method is called on all ranks, and raises InconsistentError on all of them or on none. On steps that are not
checked they do next to nothing: weights are fingerprinted after the step before one that is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.mimo.model.base import MimoModel

from ..groups.groups import ProcessGroups
from ..groups.infra import MimoModelInfra
from ..model.model import modules_of
from ..start import device
from ..start.meet import ranks_text
from ..training.gradients import finalize_model_grads_multimodule
from .bridges import check_bridge
from .data import Microbatch, data_faults, num_tokens_in
from .fingerprints import fingerprint
from .path import Finalize, path_faults
from .replicas import copies_of, copy_faults
from .world import ABSENT, differing, raise_together

EVERY = 100  # steps from one that is checked to the next


class Checks:
    """The checks of one rank's training.

    Attributes:
        every: steps from one that is checked to the next; 0 for none.
    """

    def __init__(
        self,
        model: MimoModel,
        groups: ProcessGroups,
        optimizer: Any,
        finalize: Finalize,
        on: torch.device,
        *,
        every: int,
    ) -> None:
        """Remember what is to be checked.

        Args:
            model: the wrapped model.
            optimizer: megatron-core's, of all of the rank's modules.
            finalize: reduces and scales all gradients; takes this rank's number of tokens, and returns the world's.
            on: the device of this rank.
        """
        self.every = every
        self._model, self._groups, self._optimizer, self._finalize = model, groups, optimizer, finalize
        self._device, self._step = on, 0
        self._copies = list(copies_of(model, groups)) if every else []
        self._tokens: int | None = 0  # of the step's global batch that count; None if its masks do not say
        self._kept: dict[str, torch.Tensor] = {}  # per module, its weights' fingerprints when last seen

    def _is_checked(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0

    def before_step(self, step: int, microbatches: Iterable[Microbatch]) -> None:
        """Compare data and copies of weights, and send known tensors over bridges and through reductions.

        Args:
            microbatches: all of the step; only taken if the step is checked.
        """
        self._step, self._tokens = step, 0
        if not self._is_checked(step):
            return
        self._gather_weights()
        weights = self._prints()
        of_parameter = {
            parameter: number
            for name, module in modules_of(self._model)
            for parameter, number in zip(module.parameters(), weights[name], strict=True)
        }
        faults = [*self._changed(weights), *data_faults(self._groups, map(self._counted, microbatches), self._device)]
        faults += copy_faults(self._copies, "weights", of_parameter.get)
        for bridge in self._groups.plan.bridges:
            faults += check_bridge(bridge, self._groups, self._device)[0]
        faults += path_faults(self._model, self._groups, self._finalize)
        raise_together(faults, step, self._device)
        self._kept = weights

    def before_update(self, num_tokens: int) -> None:
        """Compare reduced gradients, the count of tokens and learning rates; after gradients were finalized."""
        if not self._is_checked(self._step):
            return
        faults = list(self._number_faults(num_tokens))
        faults += copy_faults(self._copies, "gradients", self._gradient)
        raise_together(faults, self._step, self._device)

    def after_update(self) -> None:
        """Check that the weights of modules that had gradients moved; keep fingerprints for the next checked step."""
        if self._is_checked(self._step):
            self._gather_weights()
            moved = self._prints()
            raise_together(list(self._still(moved)), self._step, self._device)
            self._kept = moved
        elif self._is_checked(self._step + 1):
            self._gather_weights()
            self._kept = self._prints()
        else:
            self._kept = {}

    # ---- weights

    def _gather_weights(self) -> None:
        """Finish gathers of parameters that would otherwise begin with the next forward pass."""
        for _, module in modules_of(self._model):
            if module.ddp_config.overlap_param_gather:
                module.start_param_sync(force_sync=True)

    def _prints(self) -> dict[str, torch.Tensor]:
        found = {}
        for name, module in modules_of(self._model):
            prints = [fingerprint(parameter) for parameter in module.parameters()]
            found[name] = torch.stack(prints) if prints else torch.empty(0, dtype=torch.int64, device=self._device)
        return found

    def _changed(self, weights: dict[str, torch.Tensor]) -> Iterator[str]:
        """Weights that changed since the last update, though nothing should have changed them."""
        for name, module in modules_of(self._model):
            if name not in self._kept:
                continue
            for place in (weights[name] != self._kept[name]).nonzero().flatten().tolist():
                key = [key for key, _ in module.named_parameters()][place].replace("module.", "")
                yield f"weights of {name}: {key} on rank {self._groups.rank} changed after the last update"

    def _still(self, moved: dict[str, torch.Tensor]) -> Iterator[str]:
        """Modules with gradients and a learning rate whose weights an update left as they were."""
        rates = self._rates()
        for name, module in modules_of(self._model):
            has_gradient = any(
                bool(buffer.grad_data.any()) for buffer in (*module.buffers, *module.expert_parallel_buffers)
            )
            if rates.get(name, 0.0) > 0 and has_gradient and torch.equal(moved[name], self._kept[name]):
                yield f"weights of {name} on rank {self._groups.rank}: the update left them as they were"

    def _gradient(self, parameter: torch.nn.Parameter) -> torch.Tensor | None:
        """The fingerprint of a reduced gradient.

        There is none with a distributed optimizer, where each rank has another shard of it, and so no copy.
        """
        gradient = getattr(parameter, "main_grad", None)
        if gradient is None or not parameter.requires_grad or self._is_sharded:
            return None
        return fingerprint(gradient)

    @property
    def _is_sharded(self) -> bool:
        return any(module.ddp_config.use_distributed_optimizer for _, module in modules_of(self._model))

    # ---- the world

    def _counted(self, microbatch: Microbatch) -> Microbatch:
        """A microbatch, whose tokens are added to those of the step."""
        tokens = num_tokens_in(microbatch[0])
        self._tokens = None if tokens is None or self._tokens is None else self._tokens + tokens
        return microbatch

    def _number_faults(self, num_tokens: int) -> Iterator[str]:
        """The step, tokens and rates that ranks must share. Collective over the world."""
        rank = self._groups.rank
        if self._tokens is not None and self._tokens != num_tokens:
            yield f"rank {rank}: the global batch has {self._tokens} tokens that count, {num_tokens} were counted"
        group = dist.group.WORLD
        assert group is not None, "there is a default group"
        rates, modules = self._rates(), [module.name for module in self._groups.plan.modules]
        names = ["step", "tokens", *(f"learning rate of {module}" for module in modules)]
        numbers = [float(self._step), float(num_tokens), *(rates.get(module, 0.0) for module in modules)]
        table = torch.tensor(numbers, dtype=torch.float64).view(torch.int64) >> 2
        for place, module in enumerate(modules, start=2):
            if module not in rates:
                table[place] = ABSENT
        found = differing(table.to(self._device), group, list(range(self._groups.plan.world_size)))
        for place, (usual, others) in found.items():
            yield f"{names[place]} on {ranks_text(others)} differs from that on {ranks_text(usual)}"

    def _rates(self) -> dict[str, float]:
        """The learning rate of each of this rank's modules."""
        infos = getattr(self._optimizer, "module_infos", {})
        found = {}
        for name, info in infos.items():
            groups = info.optimizer.param_groups if info.is_active and info.optimizer is not None else []
            if groups:
                found[name] = max(float(group["lr"]) for group in groups)
        return found


def build_checks(model: Any, infra: MimoModelInfra, optimizer: Any, *, every: int = EVERY) -> Checks:
    """The checks of a training loop of one's own. Collective; call its methods on all ranks.

    Args:
        model: from `provide_distributed_model`.
        optimizer: from `build_optimizer`.
        every: steps from one that is checked to the next; 0 for none.
    """
    inner = model[0] if isinstance(model, list) else model
    modules = [(module, infra.module_to_grid_map[name]) for name, module in modules_of(inner)]
    finalize = partial(finalize_model_grads_multimodule, None, infra=infra, module_to_grid_tuple=modules)
    return Checks(inner, infra.groups, optimizer, finalize, device.current(), every=every)
