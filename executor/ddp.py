"""Each module of a rank in its own DistributedDataParallel, on its own groups.

Gradient reduction is not overlapped: with it, a lane without images would wait for a hook that never fires
(Megatron-LM #5285), and the step waits for all modules in any case.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.transformer.transformer_config import TransformerConfig

from planner import MIMO_LANGUAGE_MODULE_KEY

from .grids import collection_of
from .groups import ProcessGroups


def modules_of(model: MimoModel) -> Iterator[tuple[str, Any]]:
    """The modules of this rank, by name."""
    yield from model.modality_submodules.items()
    if model.language_model is not None:
        yield MIMO_LANGUAGE_MODULE_KEY, model.language_model


def wrap(model: MimoModel, groups: ProcessGroups, *, distributed_optimizer: bool) -> None:
    """Replace each module of the model by its DistributedDataParallel."""
    for name, module in list(modules_of(model)):
        wrapped = DistributedDataParallel(
            config=config_of(name, module),
            ddp_config=DistributedDataParallelConfig(
                grad_reduce_in_fp32=True,
                overlap_grad_reduce=False,
                use_distributed_optimizer=distributed_optimizer,
                bucket_size=None,
            ),
            module=module,
            pg_collection=collection_of(name, groups),
        )
        if name == MIMO_LANGUAGE_MODULE_KEY:
            model.language_model = wrapped
        else:
            model.modality_submodules[name] = wrapped


def config_of(name: str, module: Any) -> TransformerConfig:
    """The transformer configuration of a module: an encoder's is that of its one encoder."""
    if name == MIMO_LANGUAGE_MODULE_KEY:
        return module.config
    return next(iter(module.encoders.values())).config
