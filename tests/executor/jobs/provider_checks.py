"""Checks of the library that need torch and megatron-core but no process group: what is said of each bad input."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any
from unittest import mock

import attrs
import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.models.mimo.submodules.vision import VisionModalitySubmodules
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlock
from torch.testing._internal.distributed.fake_pg import FakeStore

from executor import library
from executor.groups.grids import build_grids
from executor.library.spec_limits import spec_limits_of
from executor.model.encoders import EncoderSubmodules
from executor.model.model import modules_of
from executor.start import device
from executor.training.sampler import GlobalOrder
from planner import Plan, compile_spec
from tests.executor.jobs import specs, user_specs
from tests.executor.jobs.provider_jobs import provider_of, refusal

APART = specs.plan({"tp": 2, "pp": 2}, {"dp": 2}, fixed=True)
STAGED = specs.plan({}, {"pp": 2}, fixed=True)
TOGETHER = specs.plan({"tp": 2}, {"dp": 2}, fixed=True, placement="colocated")
SEQUENCE = specs.plan({"tp": 2, "sequence_parallel": True}, {}, fixed=True)
CONTEXT = specs.plan({"cp": 2}, {}, fixed=True)
CHAIN = specs.routed(specs.plan({}, {}, audio_parallel={}), {"images": ("audio",), "audio": ("language",)})
EMPTY = ModuleSpec(module=VisionModalitySubmodules, submodules={})


def limits(
    plan: Plan, language: ModuleSpec | None = None, images: ModuleSpec | None = None, **options: Any
) -> list[tuple[str, str, str]]:
    """The place, rule and remedy of every fault of these specs. A module that is not given is sound."""
    language = language or user_specs.language(plan, config=sound(plan))
    modalities = {"images": images or user_specs.images(plan)}
    dtype = options.pop("dtype", torch.float32)
    return [(one.where, one.rule, one.remedy) for one in spec_limits_of(plan, language, modalities, dtype, **options)]


def sound(plan: Plan, **changes: Any) -> Any:
    """A configuration of language that keeps every rule, unless `changes` break one."""
    module = plan.module("language")
    if module.sequence_parallel:
        changes = {"sequence_parallel": True, "tensor_model_parallel_size": module.grid.sizes[0]} | changes
    return user_specs.config(**changes)


def language(plan: Plan, **changes: Any) -> ModuleSpec:
    return user_specs.language(plan, config=sound(plan, **changes))


def stock(plan: Plan) -> ModuleSpec:
    spec = user_specs.images(plan)
    spec.module = VisionModalitySubmodules
    return spec


def block(plan: Plan) -> ModuleSpec:
    spec = user_specs.images(plan)
    spec.submodules["encoders"]["vit"].module = TransformerBlock
    return spec


def plain(plan: Plan) -> ModuleSpec:
    spec = user_specs.plain_images(plan)
    spec.submodules["encoders"]["vit"].params["config"] = user_specs.vision_config()
    return spec


def unfed(plan: Plan) -> ModuleSpec:
    """Submodules of images that do not read the output of another encoder."""
    spec = user_specs.images(plan)
    spec.module = EncoderSubmodules
    return spec


def with_group(plan: Plan) -> ModuleSpec:
    return user_specs.language(plan, pg_collection=ProcessGroupCollection())


def projection(plan: Plan, **changes: Any) -> ModuleSpec:
    """Images with a changed configuration of their projection."""
    spec = user_specs.images(plan)
    for name, value in changes.items():
        setattr(spec.submodules["input_projections"][0].params["config"], name, value)
    return spec


def spec_faults() -> dict[str, list[tuple[str, str, str]]]:
    """What is said of specs with one fault each, by a name for the fault."""
    vision = user_specs.vision_config
    return {
        "sound": [one for plan in (APART, STAGED, TOGETHER, SEQUENCE) for one in limits(plan)],
        "per_token": limits(APART, language(APART, calculate_per_token_loss=False)),
        "per_token_projection": limits(APART, None, projection(APART, calculate_per_token_loss=False)),
        "skipped_layers": limits(STAGED, None, stock(STAGED)),
        "unaware_of_stages": limits(STAGED, None, plain(STAGED)),
        "tokens_first": limits(APART, None, block(APART)),
        "allgather": limits(APART, language(APART, num_moe_experts=4)),
        "dropout_under_sp": limits(SEQUENCE, language(SEQUENCE, hidden_dropout=0.1)),
        "scatter_under_sp": limits(
            SEQUENCE, user_specs.language(SEQUENCE, config=sound(SEQUENCE), scatter_embedding_sequence_parallel=True)
        ),
        "fed": [
            (one.where, one.rule, one.remedy)
            for one in spec_limits_of(
                CHAIN,
                user_specs.language(CHAIN),
                {"images": user_specs.images(CHAIN), "audio": unfed(CHAIN)},
                torch.float32,
            )
        ],
        "local_context": limits(CONTEXT),
        "dropout": limits(TOGETHER, None, user_specs.images(TOGETHER, config=vision(attention_dropout=0.2))),
        "size": limits(APART, language(APART, tensor_model_parallel_size=4)),
        "sp_flag": limits(SEQUENCE, user_specs.language(SEQUENCE)),
        "virtual": limits(
            APART,
            language(
                APART,
                pipeline_model_parallel_size=2,
                pipeline_dtype=torch.float32,
                virtual_pipeline_model_parallel_size=2,
            ),
        ),
        "dtype": limits(APART, language(APART, bf16=True)),
        "pipeline_dtype": limits(APART, language(APART, pipeline_dtype=torch.float32), dtype=torch.bfloat16),
        "layers": limits(APART, language(APART, num_layers=8)),
        "stage_layers": limits(
            APART,
            language(
                APART,
                pipeline_model_parallel_size=2,
                pipeline_dtype=torch.float32,
                num_layers_in_first_pipeline_stage=3,
                num_layers_in_last_pipeline_stage=1,
            ),
        ),
        "stage_settings": limits(
            STAGED,
            None,
            user_specs.images(
                STAGED,
                config=user_specs.vision_config(
                    num_layers=3,
                    pipeline_model_parallel_size=2,
                    pipeline_dtype=torch.float32,
                    account_for_embedding_in_pipeline_split=True,
                ),
            ),
        ),
        "group": limits(APART, with_group(APART)),
        "no_weights": limits(APART, language(APART, perform_initialization=False), weights_come_later=False),
        "weights_by_hook": limits(APART, language(APART, perform_initialization=False)),
        "no_config": limits(APART, None, EMPTY),
        "no_language_config": limits(APART, ModuleSpec(module=object)),
        "no_submodules": limits(APART, None, ModuleSpec(module=torch.nn.Linear)),
        "names": [
            (one.where, one.rule, one.remedy)
            for one in spec_limits_of(APART, None, {"pictures": stock(APART)}, torch.float32)
        ],
        "many": limits(
            TOGETHER,
            language(TOGETHER, bf16=True),
            projection(TOGETHER, calculate_per_token_loss=False),
        ),
    }


def half_precision(plan: Plan) -> Plan:
    spec = plan.to_spec()
    return compile_spec(attrs.evolve(spec, training=attrs.evolve(spec.training, dtype="fp16")))


def refusals() -> dict[str, str]:
    """What calls are told, by a name for the call."""
    plan = APART
    grids = build_grids(plan, None)
    fsdp = DistributedDataParallelConfig(use_megatron_fsdp=True)

    def given(plan: Plan = plan, **arguments: Any) -> Callable[[], Any]:
        return lambda: library.LlavaMimoProvider(plan=plan, bf16=False).provide_distributed_model(**arguments)

    def contract(source: Any, *numbers: int) -> Callable[[], Any]:
        return lambda: library.validate_data_loader_contract(source, *numbers)

    provider = provider_of(plan)
    return {
        "virtual": refusal(lambda: provider_of(plan, virtual_pipeline_model_parallel_size=2)),
        "virtual_later": refusal(lambda: setattr(provider, "virtual_pipeline_model_parallel_size", 2)),
        "fp16": refusal(lambda: provider_of(plan, fp16=True)),
        "fp16_later": refusal(given(fp16=True)),
        "fp16_plan": refusal(library.LlavaMimoProvider(plan=half_precision(plan)).build_infra),
        "fsdp": refusal(given(use_megatron_fsdp=True)),
        "fsdp2": refusal(given(use_torch_fsdp2=True)),
        "fsdp_config": refusal(given(ddp_config=fsdp)),
        "chunks": refusal(given(overlap_param_gather_with_optimizer_step=True)),
        "meta_ddp": refusal(given(init_model_with_meta_device=True)),
        "unknown": refusal(given(ddp_confg=fsdp)),
        "no_group": refusal(provider.build_infra),
        "no_specs": refusal(library.MimoModelProvider(plan=plan, bf16=False).finalize),
        "llava_specs": refusal(
            library.LlavaMimoProvider(plan=plan, language_model_spec=user_specs.language(plan)).finalize
        ),
        "llava_chain": refusal(library.LlavaMimoProvider(plan=CHAIN).finalize),
        "freeze_name": refusal(lambda: provider_of(plan, freeze_modality_encoders={"image": True}).finalize()),
        "token_name": refusal(lambda: provider_of(plan, special_token_ids={"image": 7}).finalize()),
        "no_token": refusal(lambda: provider_of(plan, special_token_ids={}).finalize()),
        "apart": refusal(lambda: library.build_colocated_comm_config(plan)),
        "not_mimo": refusal(lambda: library.unwrap_mimo_model(torch.nn.Linear(1, 1))),
        "stub": refusal(lambda: library.validate_no_stub_ranks(grids, 8)),
        "stub_plan": refusal(lambda: library.validate_no_stub_ranks(plan, 8)),
        "missing": refusal(lambda: library.validate_no_stub_ranks(provider, 4)),
        "stub_holds": refusal(lambda: library.validate_no_stub_ranks(grids, plan.world_size)),
        "contract": refusal(contract(provider, 16, 2, 8)),
        "contract_holds": refusal(contract(plan, 8, 4, 2)),
        "contract_source": refusal(contract(object(), 8, 4, 2)),
        "is_value_error": str(issubclass(library.ContractError, ValueError)),
        "no_op": str(provider.initialize_model_parallel(seed=1)),
    }


def slices() -> dict[str, Any]:
    """A nested batch that is cut for a lane, and what is said of bad batches."""
    rows = torch.tensor([0, 1, 2, 3])
    batch = {
        "ids": rows,
        "position_ids": rows.expand(3, 4).unsqueeze(2),
        "captions": ["a", "b", "c", "d"],
        "visual": {"grid": torch.tensor([0, 0, 1, 3]), "pixels": torch.tensor([0, 0, 0, 1, 3]), "scale": 0.5},
    }
    counts = {"visual": (2, 1, 0, 1), "pixels": (3, 1, 0, 1)}
    part = library.slice_batch(batch, slice(1, 4), 4, counts)
    wrong = {"visual": (1, 1, 1, 2)}
    return {
        "ids": part["ids"].tolist(),
        "mrope": part["position_ids"][2, :, 0].tolist(),
        "captions": part["captions"],
        "grid": part["visual"]["grid"].tolist(),
        "pixels": part["visual"]["pixels"].tolist(),
        "scale": part["visual"]["scale"],
        "packed": refusal(
            lambda: library.slice_batch({"packing_kwargs": {"cu_seqlens_q": rows, "max_seqlen_q": 4}}, slice(0, 2), 4)
        ),
        "shared_row": refusal(lambda: library.slice_batch({"attention_mask": torch.ones(1, 1, 8, 8)}, slice(0, 2), 4)),
        "unknown_rows": refusal(lambda: library.slice_batch({"pixels": torch.zeros(5)}, slice(0, 2), 4)),
        "wrong_counts": refusal(lambda: library.slice_batch(batch, slice(0, 2), 4, wrong)),
        "unnamed": refusal(lambda: of_rank(specs.plan({}, {"dp": 2}), 1, {"inputs": rows}, {})),
    }


def of_rank(plan: Plan, rank: int, inputs: dict[str, Any], num_items: dict[str, Any]) -> dict[str, Any]:
    batch = {"input_ids": torch.arange(4), "modality_inputs": {"images": {"vit": inputs}}}
    return library.batch_of_rank(plan, plan.view(rank), batch, num_items)


def listed_images() -> list[dict[str, Any] | None]:
    """For each lane, the devices of images that are given as a list of tensors. `meta` stands for a GPU."""
    plan = specs.plan({}, {"dp": 2})
    images = [torch.tensor(0), torch.tensor(1)]
    found = []
    with mock.patch("executor.start.device.current", return_value=torch.device("meta")):
        for rank in plan.module("images").ranks:
            part = of_rank(plan, rank, {"inputs": images}, {"images": [1, 1, 0, 0]})["modality_inputs"]
            found.append(part and [one.device.type for one in part["images"]["vit"]["inputs"]])
    return found


def samples_met(text: str) -> list[dict[str, list[list[int]]]]:
    """For each microbatch and module, the samples that each rank of a first stage meets, from one order of samples."""
    plan = Plan.from_json(text)
    found = []
    for drawn in islice(GlobalOrder(num_samples=10, micro_size=4, seed=5, consumed_samples=4), 4):
        met: dict[str, list[list[int]]] = {}
        counts = [index % 3 for index in drawn]
        features = torch.tensor(drawn).repeat_interleave(torch.tensor(counts))
        for rank in range(plan.world_size):
            view = plan.view(rank)
            batch = {"input_ids": torch.tensor(drawn), "modality_inputs": {"images": {"vit": {"inputs": features}}}}
            part = library.batch_of_rank(plan, view, batch, {"images": counts})
            if view.role.is_first_stage("language"):
                met.setdefault("language", []).append(part["input_ids"].tolist())
            if "images" in view.role.modules:
                inputs = part["modality_inputs"] or {"images": {"vit": {"inputs": torch.empty(0)}}}
                met.setdefault("images", []).append(inputs["images"]["vit"]["inputs"].tolist())
        found.append(met | {"drawn": [drawn]})
    return found


def orders() -> dict[str, Any]:
    def first(count: int, **fields: Any) -> list[int]:
        order = GlobalOrder(**({"num_samples": 10, "micro_size": 4, "seed": 5} | fields))
        return [index for microbatch in islice(order, count) for index in microbatch]

    return {
        "two_epochs": first(5),
        "resumed": first(3, consumed_samples=8),
        "other_seed": first(5, seed=6),
        "plain": first(3, seed=None),
    }


def parameters_on_meta(text: str, ranks: list[int]) -> dict[int, dict[str, int]]:
    """The parameters of each module on some ranks, counted in this process on meta devices and a fake process group."""
    plan = Plan.from_json(text)
    found = {}
    for rank in ranks:
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=plan.world_size)
        try:
            with device.ready():
                model = library.LlavaMimoProvider(plan=plan, init_model_with_meta_device=True).provide()
            found[rank] = {name: sum(p.numel() for p in module.parameters()) for name, module in modules_of(model)}
            assert all(parameter.is_meta for parameter in model.parameters())
        finally:
            dist.destroy_process_group()
    return found


def names() -> list[str]:
    return list(library.__all__)
