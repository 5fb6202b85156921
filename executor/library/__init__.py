"""What a user's own training loop imports: Megatron-Bridge's MIMO names, answered by the plan (docs/library.md)."""

from __future__ import annotations

from ..checks.consistency import Checks, build_checks
from ..checks.world import InconsistentError
from ..groups.infra import MimoModelInfra
from ..model.model import LanguageModel
from ..start import device as _device  # noqa: F401  before megatron-core: see executor/__init__.py
from ..training.gradients import finalize_model_grads_multimodule
from ..training.optimizer import build_optimizer
from ..training.sampler import GlobalOrder
from ..training.slicing import batch_of_rank, slice_batch
from .launch_checks import ContractError, validate_data_loader_contract, validate_no_stub_ranks
from .loop import (
    ColocatedCommConfig,
    build_colocated_comm_config,
    build_communicator,
    build_hypercomm_grids,
    build_pg_collection_for_schedule,
    get_module_to_grid_tuple,
    is_current_rank_in_grid,
    multimodule_no_sync,
    unwrap_mimo_model,
    zero_grad_buffer_for_multimodule,
)
from .provider import LlavaMimoProvider, MimoModelProvider

__all__ = [
    "Checks",
    "ColocatedCommConfig",
    "ContractError",
    "GlobalOrder",
    "InconsistentError",
    "LanguageModel",
    "LlavaMimoProvider",
    "MimoModelInfra",
    "MimoModelProvider",
    "batch_of_rank",
    "build_checks",
    "build_colocated_comm_config",
    "build_communicator",
    "build_hypercomm_grids",
    "build_optimizer",
    "build_pg_collection_for_schedule",
    "finalize_model_grads_multimodule",
    "get_module_to_grid_tuple",
    "is_current_rank_in_grid",
    "multimodule_no_sync",
    "slice_batch",
    "unwrap_mimo_model",
    "validate_data_loader_contract",
    "validate_no_stub_ranks",
    "zero_grad_buffer_for_multimodule",
]
