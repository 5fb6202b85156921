"""Each module of a rank in its own DistributedDataParallel, on its own groups.

An encoder's gradients are never reduced, nor its parameters gathered, while it runs, whatever the configuration asks
for. On a lane whose samples hold no image the encoder does not run, so its hooks never fire, and the other lanes would
wait for this one (Megatron-LM #5285). The numbers are the same either way. The ready-made models overlap nothing.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig

from planner import MIMO_LANGUAGE_MODULE_KEY

from ..errors import ExecutorError
from ..groups.grids import collection_of
from ..groups.groups import ProcessGroups
from ..model.model import modules_of


def wrap(
    model: MimoModel,
    groups: ProcessGroups,
    ddp_config: DistributedDataParallelConfig | None = None,
    *,
    broadcast: bool = False,
) -> None:
    """Replace each module of the model by its DistributedDataParallel.

    Args:
        ddp_config: the configuration for all modules; each gets its own copy, and encoders' copies do not overlap.
            `default_config()` if left out.
        broadcast: whether every lane gets the parameters of the first.
    """
    for name, module in list(modules_of(model)):
        wrapped = DistributedDataParallel(
            config=config_of(name, module),
            ddp_config=_own_config(name, ddp_config or default_config()),
            module=module,
            pg_collection=collection_of(name, groups),
        )
        if broadcast:
            wrapped.broadcast_params()
        _replace(model, name, wrapped)


def _own_config(name: str, given: DistributedDataParallelConfig) -> DistributedDataParallelConfig:
    if name == MIMO_LANGUAGE_MODULE_KEY:
        return copy.copy(given)
    return dataclasses.replace(given, overlap_grad_reduce=False, overlap_param_gather=False)


def default_config(*, distributed_optimizer: bool = False) -> DistributedDataParallelConfig:
    """Reduce gradients once, in fp32, in one bucket per module: with several, checkpoints load wrong weights."""
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=False,
        use_distributed_optimizer=distributed_optimizer,
        bucket_size=None,
    )


def wrap_precision(model: MimoModel, dtype: torch.dtype, wrapper: Callable[[Any, Any], Any] | None) -> None:
    """Replace each module by `wrapper(configuration, module)`, or cast it to `dtype` if there is no wrapper."""
    for name, module in list(modules_of(model)):
        if wrapper is None:
            module.to(dtype)
        else:
            _replace(model, name, wrapper(config_of(name, module), module))


def _replace(model: MimoModel, name: str, module: torch.nn.Module) -> None:
    if name == MIMO_LANGUAGE_MODULE_KEY:
        model.language_model = module
    else:
        model.modality_submodules[name] = module


def config_of(name: str, module: Any) -> TransformerConfig:
    """The transformer configuration of a module; for a modality, that of its first encoder or projection that has one.

    Raises:
        ExecutorError: no encoder or projection of the module has one.
    """
    while isinstance(module, Float16Module):
        module = module.module
    if name == MIMO_LANGUAGE_MODULE_KEY:
        return module.config
    for submodule in (*module.encoders.values(), *module.input_projections):
        if isinstance(getattr(submodule, "config", None), TransformerConfig):
            return submodule.config
    raise ExecutorError(f"no encoder or projection of {name} on this rank has a TransformerConfig; give it one")
