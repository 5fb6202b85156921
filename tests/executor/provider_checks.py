"""Checks of the provider's helpers that need no process group, but torch and megatron-core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import specs
import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.transformer.spec_utils import ModuleSpec
from torch.testing._internal.distributed.fake_pg import FakeStore

from executor.ddp import modules_of
from executor.device import ready
from executor.errors import ExecutorError
from executor.provider import LlavaMimoProvider, MimoModelProvider
from executor.schedule import build_colocated_comm_config, validate_data_loader_contract, validate_no_stub_ranks
from executor.slicing import slice_batch
from executor.transformer import transformer_config
from planner import Plan


def refusal(call: Callable[[], Any]) -> str:
    try:
        call()
    except ExecutorError as error:
        return str(error)
    return ""


def without_ranks(text: str) -> dict[str, Any]:
    plan = Plan.from_json(text)
    varying = MimoModelProvider(plan=specs.plan({}, {}))
    overlap = DistributedDataParallelConfig(overlap_grad_reduce=True)
    rows = torch.tensor([0, 1, 2, 3])
    batch = {
        "ids": rows,
        "position_ids": rows.expand(3, 4).unsqueeze(2),
        "pixels": torch.tensor([0, 1, 2, 2]),
        "modality_inputs": {"nested": rows},
        "scale": 0.5,
    }
    part = slice_batch(batch, slice(2, 4), 4, {"pixels": (1, 0, 1, 2)})
    tiny = specs.plan({"tp": 2}, {"dp": 2}, fixed=True, placement="colocated")
    dropping = ModuleSpec(module=object, params={"config": transformer_config(tiny.module("language"), torch.float32)})
    dropping.params["config"].hidden_dropout = 0.1
    return {
        "virtual": refusal(lambda: MimoModelProvider(plan=plan, virtual_pipeline_model_parallel_size=2)),
        "overlap": refusal(lambda: varying.provide_distributed_model(overlap)),
        "dropout": refusal(
            lambda: MimoModelProvider(plan=tiny, language_model_spec=dropping).provide_distributed_model()
        ),
        "apart": refusal(lambda: build_colocated_comm_config(plan)),
        "stub": refusal(lambda: validate_no_stub_ranks(plan, 8)),
        "contract": refusal(lambda: contract(plan, micro_batch_size=2)),
        "contract_holds": not refusal(lambda: contract(plan, micro_batch_size=4)),
        "slices": {
            "ids": part["ids"].tolist(),
            "mrope": part["position_ids"][0, :, 0].tolist(),
            "pixels": part["pixels"].tolist(),
            "nested": part["modality_inputs"]["nested"].tolist(),
            "scale": part["scale"],
        },
        "unknown_rows": refusal(lambda: slice_batch({"pixels": torch.zeros(5)}, slice(0, 2), 4)),
        "wrong_counts": refusal(lambda: slice_batch(batch, slice(0, 2), 4, {"pixels": (1, 1, 1, 2)})),
    }


def contract(plan: Plan, *, micro_batch_size: int) -> None:
    validate_data_loader_contract(
        plan, global_batch_size=8, micro_batch_size=micro_batch_size, num_microbatches=8 // micro_batch_size
    )


def parameters_of_ranks(text: str, ranks: list[int]) -> dict[int, dict[str, int]]:
    """Parameters of each module of some ranks of any world, in this one process: meta device, fake process group."""
    plan = Plan.from_json(text)
    found = {}
    for rank in ranks:
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=plan.world_size)
        try:
            with ready():
                model = LlavaMimoProvider(plan=plan, init_model_with_meta_device=True).provide()
            found[rank] = {name: sum(p.numel() for p in module.parameters()) for name, module in modules_of(model)}
            assert all(parameter.is_meta for parameter in model.parameters())
        finally:
            dist.destroy_process_group()
    return found
