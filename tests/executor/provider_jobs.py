"""What the provider's tests run on ranks: a training loop of the user's own, with their own ModuleSpecs."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from jobs import ready
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.pipeline_parallel.schedules import forward_backward_pipelining_without_interleaving
from megatron.core.transformer.spec_utils import ModuleSpec

from executor import schedule
from executor.bridge import PlannedCommunicator
from executor.data import Synthetic
from executor.errors import ExecutorError
from executor.model import encoder_spec
from executor.provider import LlavaMimoProvider, MimoModelProvider
from executor.train import summed_loss
from executor.transformer import model_of, padded_vocab_size, transformer_config
from executor.weights import initialize
from planner import MIMO_LANGUAGE_MODULE_KEY, Plan


def user_specs(plan: Plan, provider: MimoModelProvider) -> None:
    """megatron-core's own GPT, and encoders without groups."""
    language = plan.module(MIMO_LANGUAGE_MODULE_KEY)
    provider.language_model_spec = ModuleSpec(
        module=GPTModel,
        params={
            "config": transformer_config(language, torch.float32),
            "transformer_layer_spec": get_gpt_layer_local_spec(normalization="RMSNorm"),
            "vocab_size": padded_vocab_size(language),
            "max_sequence_length": model_of(language).max_positions,
            "position_embedding_type": "rope",
            "scatter_embedding_sequence_parallel": False,
        },
    )
    specs = {}
    groups = provider.get_or_build_infra().groups
    for module in plan.modules:
        if not module.is_language:
            spec = encoder_spec(module, plan, groups, torch.float32)
            for part in (spec, *spec.submodules["encoders"].values(), *spec.submodules["input_projections"]):
                part.params.pop("pg_collection")
            specs[module.name] = spec
    provider.modality_submodules_spec = specs


def own_loop(text: str) -> dict[str, Any]:
    """One forward and backward pass with the helpers; what was created, called and frozen."""
    plan = Plan.from_json(text)
    with ready(plan):
        provider = MimoModelProvider(plan=plan, bf16=False, freeze_modality_encoders={"images": True})
        infra = provider.build_infra()
        user_specs(plan, provider)
        before = dist.distributed_c10d._world.group_count
        called: list[str] = []
        assert provider.language_model_spec is not None
        params = dict(provider.language_model_spec.params)

        def first(models: list[Any]) -> list[Any]:
            called.append("first")
            initialize(models[0], seed=3)
            return models

        models = provider.provide_distributed_model(
            DistributedDataParallelConfig(),
            pre_wrap_hook=[first, lambda _: called.append("second")],  # type: ignore[list-item,return-value]
            post_wrap_hook=lambda models: called.append("post") or models,  # type: ignore[func-returns-value]
        )
        loss, num_tokens, norm = one_step(plan, models, infra)
        images = models[0].modality_submodules["images"].module if "images" in infra.participating_modules else None
        return {
            "called": called,
            "created": dist.distributed_c10d._world.group_count - before,
            "same_infra": provider.get_or_build_infra() is provider.build_infra() is infra,
            "untouched": provider.language_model_spec.params == params,
            "participating": infra.participating_modules,
            "absent": [name for name, collection in infra.pg_collections.items() if collection is None],
            "ndim": infra.module_output_ndim,
            "sizes": (provider.tensor_model_parallel_size, provider.pipeline_model_parallel_size),
            "frozen": images is None or not any(p.requires_grad for p in images.encoders.parameters()),
            "in_grid": [schedule.is_current_rank_in_grid(grid) for grid in infra.module_to_grid_map.values()],
            "loss": loss,
            "num_tokens": num_tokens,
            "norm": norm,
        }


def one_step(plan: Plan, models: list[Any], infra: Any) -> tuple[float, int, float]:
    """Forward and backward over the global batch; summed loss of this rank, its tokens, squared gradients."""
    model = schedule.unwrap_mimo_model(models)
    pairs = schedule.get_module_to_grid_tuple(model, infra)
    schedule.zero_grad_buffer_for_multimodule(pairs)
    config = model.config
    config.finalize_model_grads_func = partial(schedule.finalize_model_grads_multimodule, infra=infra)
    config.no_sync_func = partial(schedule.multimodule_no_sync, module_to_grid_tuple=pairs)
    samples, view = Synthetic(plan, seed=7), infra.groups.view

    def forward(batches: Any, model: Any) -> Any:
        batch = next(batches)
        own = view.batch_slices.get(MIMO_LANGUAGE_MODULE_KEY) or next(iter(view.batch_slices.values()))
        inputs = {}
        for name in view.role.modality_module_names:
            pixels = batch.items_of(name, view.batch_slices[name])
            if pixels is not None and view.role.is_first_stage(name):
                inputs[name] = {plan.module(name).model.family: {"inputs": pixels}}
        output, mask = model(**batch.text_of(own), modality_inputs=inputs or None)
        return output, partial(summed_loss, mask)

    losses = forward_backward_pipelining_without_interleaving(
        forward_step_func=forward,
        data_iterator=(samples.microbatch(0, index) for index in range(plan.batch.num_microbatches)),
        model=model,
        num_microbatches=plan.batch.num_microbatches,
        seq_length=plan.batch_sizes.seq_length,
        micro_batch_size=plan.batch_sizes.micro_size,
        p2p_communicator=PlannedCommunicator(plan, infra.module_to_grid_map, infra.groups, config),
        pg_collection=schedule.build_pg_collection_for_schedule(infra),
    )
    gradients = [p.main_grad for module, _ in pairs for p in module.parameters() if p.requires_grad]
    return sum(map(float, losses)), len(losses), sum(float(gradient.square().sum()) for gradient in gradients)


def colocated_config(text: str) -> dict[str, Any]:
    """The configuration of colocated bridges beside the bridges of a real model."""
    plan = Plan.from_json(text)
    with ready(plan):
        provider = LlavaMimoProvider(plan=plan, bf16=False)
        grids = provider.build_infra().module_to_grid_map
        model = provider.provide()
        config = schedule.build_colocated_comm_config(plan, grids)
        return {
            "topology": config.topology,
            "same_grids": config.module_to_grid_map is grids,
            "same_shapes": all(
                (bridge.src_grid.shape, bridge.dest_grid.shape) == (grids[src].shape, grids[dst].shape)
                for (src, dst), bridge in model.colocated_comms.items()
            ),
            "edges": [(src, dst) for src, targets in config.topology.items() for dst in targets],
            "bridges": list(model.colocated_comms),
            "same_dims": all(bridge.dim_mapping == config.dim_mapping for bridge in model.colocated_comms.values()),
        }


def devices(text: str) -> dict[str, Any]:
    """Where parameters lie once a frozen model was provided for another device than the one it was made on."""
    plan = Plan.from_json(text)
    with ready(plan), mock.patch("executor.device.current", return_value=torch.device("meta")):
        provider = LlavaMimoProvider(plan=plan, bf16=False, freeze_modality_encoders={"images": True})
        made = {parameter.device.type for parameter in provider.provide().parameters()}
        (model,) = provider.provide_distributed_model(wrap_with_ddp=False)
        frozen = [p for p in model.parameters() if not p.requires_grad]
        buffers = [b.device.type for b in model.buffers()]
        return {
            "made": made,
            "num_frozen": len(frozen),
            "frozen": {p.device.type for p in frozen},
            "all": {p.device.type for p in model.parameters()} | set(buffers),
        }


def llava(text: str) -> dict[str, Any]:
    """The ready provider; parameters of one lane's ranks are equal after data_parallel_random_init."""
    plan = Plan.from_json(text)
    with ready(plan):
        provider = LlavaMimoProvider(plan=plan.to_spec(), bf16=True)
        (model,) = provider.provide_distributed_model()
        dtypes = {str(parameter.dtype) for parameter in model.parameters()}
        refusals = []
        for arguments in ({"use_megatron_fsdp": True}, {"use_torch_fsdp2": True}):
            try:
                provider.provide_distributed_model(**arguments)
            except ExecutorError as error:
                refusals.append(str(error))
        return {"dtypes": dtypes, "refusals": refusals, "wrapped": [type(m).__name__ for m in _modules(model)]}


def _modules(model: Any) -> list[Any]:
    return [module for _, module in schedule.modules_of(model)]
