"""Random streams: every module of a rank draws from states of its own, for dropout and other noise.

megatron-core keeps one tracker for all modules of a process, and torch has one default state. On a rank that holds
several modules, the draws of one would therefore depend on those of another and on its tp coord. Masks of replicated
activations would differ between tp ranks, and the model would be silently wrong.

Here a module's states are put in place while its forward runs, under the names that megatron-core's layers ask for, and
taken out afterwards. seeds.py decides which ranks share a stream.

Recomputed layers need nothing more: megatron-core's checkpoint saves the states that it finds, which are the module's,
and restores them while it recomputes. This does not hold if a whole module's forward is recomputed from outside: it
would draw new numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.tensor_parallel import random

from planner import MIMO_LANGUAGE_MODULE_KEY, RankView

from ..groups.groups import ProcessGroups
from .model import modules_of
from .seeds import Seeds


class Streams:
    """The random states of a rank's modules. While `of(module)` is active, the process draws from that module's."""

    def __init__(self, view: RankView, seed: int, *, lanes_differ: bool = True) -> None:
        """Seed the states of every module of the rank.

        Args:
            lanes_differ: as in `Seeds.of`: true for streams of activations, false for streams of new weights.
        """
        self._states = {
            name: _states_of(Seeds.of(view, name, seed, lanes_differ=lanes_differ)) for name in view.role.modules
        }
        self._active: str | None = None

    @contextmanager
    def of(self, module: str) -> Iterator[None]:
        """While active, all draws come from the states of `module`; afterwards the previous states are back.

        Entering it again for the same module does nothing.
        """
        if self._active == module:
            yield
            return
        outside, active_outside = random._get_all_rng_states(), self._active
        random._set_all_rng_states(*self._states[module])
        self._active = module
        try:
            yield
        finally:
            self._states[module] = random._get_all_rng_states()
            random._set_all_rng_states(*outside)
            self._active = active_outside

    def attach(self, model: MimoModel) -> None:
        """Make the forward of every module of the model run in the module's own states.

        Call it before the modules are wrapped. It replaces `forward` itself, because MimoModel calls that directly,
        past torch's hooks. MimoModel also calls language's embedding outside language's forward, so the embedding is
        attached too.
        """
        for name, module in modules_of(model):
            self._attach(module, name)
            if name == MIMO_LANGUAGE_MODULE_KEY and getattr(module, "embedding", None) is not None:
                self._attach(module.embedding, name)

    def _attach(self, module: torch.nn.Module, name: str) -> None:
        forward: Callable[..., Any] = module.forward

        @functools.wraps(forward)
        def in_own_states(*args: Any, **kwargs: Any) -> Any:
            with self.of(name):
                return forward(*args, **kwargs)

        module.forward = in_own_states


def _states_of(seeds: Seeds) -> tuple[Any, ...]:
    """The states of the CPU, of the device and of megatron-core's tracker that start from these seeds."""
    outside = random._get_all_rng_states()
    tracker = random.get_cuda_rng_tracker()
    tracker.reset()
    torch.default_generator.manual_seed(seeds.default)
    torch.cuda.manual_seed(seeds.default)
    tracker.add(random._DATA_PARALLEL_RNG_TRACKER_NAME, seeds.default)
    tracker.add(random._MODEL_PARALLEL_RNG_TRACKER_NAME, seeds.tensor)
    tracker.add(random._EXPERT_PARALLEL_RNG_TRACKER_NAME, seeds.expert)
    states: tuple[Any, ...] = random._get_all_rng_states()
    random._set_all_rng_states(*outside)
    return states


def seed_streams(groups: ProcessGroups, seed: int) -> None:
    """Seed what is drawn outside any module's forward, like weights of the rank's first module: alike on all lanes."""
    first = next(iter(groups.view.role.modules))
    random._set_all_rng_states(*_states_of(Seeds.of(groups.view, first, seed, lanes_differ=False)))
