"""What tests of the provider run on ranks: a user's own training loop, with a user's own ModuleSpecs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.pipeline_parallel.schedules import forward_backward_pipelining_without_interleaving

from executor import library
from executor.commands.trainer import Trainer, TrainSettings
from executor.errors import ExecutorError
from executor.groups.infra import MimoModelInfra
from executor.model.model import modules_of
from executor.model.weights import initialize, shards_of
from executor.start import device
from executor.start.context import connect
from executor.start.versions import Versions
from executor.training.gradients import counts_tokens
from executor.training.optimizer import optimizer_config
from executor.training.synthetic_data import Synthetic
from planner import Plan
from tests.executor.jobs import jobs, user_specs
from tests.executor.jobs.rng_jobs import recorded_masks

SEED = 1234


@contextmanager
def world() -> Iterator[int]:
    """A default group as a user makes it, and no other."""
    context = connect(jobs.TIMEOUT)
    dist.init_process_group(
        device.backend(), store=context.store, rank=context.rank, world_size=context.world_size, timeout=jobs.TIMEOUT
    )
    with device.ready():
        yield context.rank
    dist.destroy_process_group()


def provider_of(plan: Plan, **fields: Any) -> library.MimoModelProvider:
    given = {"language_model_spec": user_specs.language(plan), "bf16": False, "seed": SEED} | fields
    given.setdefault("modality_submodules_spec", {"images": user_specs.images(plan)})
    return library.MimoModelProvider(plan=plan, **given)


def filled(models: list[Any]) -> None:
    """A pre_wrap_hook that gives a model the weights that Trainer starts from."""
    initialize(models[0], SEED)


class Loop:
    """A training loop made of the library's helpers alone, as docs/library.md shows."""

    def __init__(self, plan: Plan, model: Any, infra: MimoModelInfra, loss: Callable[..., Any]) -> None:
        self.plan, self.model, self.infra, self.loss = plan, model, infra, loss
        self.view, self.num_tokens, self.samples = infra.groups.view, 0, Synthetic(plan, seed=7)
        self.pairs = library.get_module_to_grid_tuple(model, infra)
        model.config.no_sync_func = partial(library.multimodule_no_sync, module_to_grid_tuple=self.pairs)
        model.config.finalize_model_grads_func = self.finalize
        self.communicator = library.build_communicator(model, infra)
        dtype = next(model.parameters()).dtype
        chosen = optimizer_config(optimizer="sgd", lr=0.1, dtype=dtype, distributed_optimizer=False)
        self.optimizer = library.build_optimizer(model, infra.groups, chosen)

    def finalize(self, *args: Any, **kwargs: Any) -> None:
        self.num_tokens = library.finalize_model_grads_multimodule(
            *args, infra=self.infra, module_to_grid_tuple=self.pairs, **kwargs
        )

    def forward(self, batches: Iterator[Any], model: Any) -> Any:
        microbatch = next(batches)
        batch = microbatch.as_batch({"images": "vit"})
        output, mask = model(**library.batch_of_rank(self.plan, self.view, batch, microbatch.num_items))
        return output, partial(self.loss, mask)

    def step(self, step: int) -> tuple[float, float, int]:
        library.zero_grad_buffer_for_multimodule(self.pairs)
        self.optimizer.zero_grad()
        losses = forward_backward_pipelining_without_interleaving(
            forward_step_func=self.forward,
            data_iterator=(self.samples.microbatch(step, i) for i in range(self.plan.batch.num_microbatches)),
            model=self.model,
            num_microbatches=self.plan.batch.num_microbatches,
            seq_length=self.plan.batch_sizes.seq_length,
            micro_batch_size=self.plan.batch_sizes.micro_size,
            p2p_communicator=self.communicator,
            pg_collection=library.build_pg_collection_for_schedule(self.infra),
        )
        _, norm, _ = self.optimizer.step()
        total = torch.tensor([sum(map(float, losses)) if counts_tokens(self.view) else 0.0], dtype=torch.float64)
        dist.all_reduce(total)
        return float(total) / max(1, self.num_tokens), float(norm), self.num_tokens


def own_loop(text: str, options: dict[str, Any]) -> dict[str, Any]:
    """Three steps with the user's specs, and what was created, called and changed on the way."""
    plan = Plan.from_json(text)
    with world() as rank:
        provider = provider_of(plan)
        given = copy.deepcopy(provider.language_model_spec)
        infra = provider.build_infra()
        count = dist.distributed_c10d._world.group_count
        called: list[str] = []
        (model,) = provider.provide_distributed_model(
            DistributedDataParallelConfig(
                grad_reduce_in_fp32=True, overlap_grad_reduce=options.get("overlap", False), bucket_size=None
            ),
            pre_wrap_hook=[filled, lambda _: called.append("second")],
            post_wrap_hook=lambda models: called.append("post") or models,  # type: ignore[func-returns-value]
        )
        loop = Loop(plan, model, infra, user_specs.summed_loss)
        steps = [loop.step(number) for number in range(3)]
        with library.multimodule_no_sync(module_to_grid_tuple=loop.pairs):
            inside = reducing(loop.pairs)
        library.validate_no_stub_ranks(infra.module_to_grid_map, dist.get_world_size())
        library.validate_data_loader_contract(infra, 8, 4, 2)
        spec = provider.language_model_spec
        assert spec is not None
        assert given is not None
        return {
            "steps": steps,
            "parts": parts_of(model),
            "reducing": (inside, reducing(loop.pairs)),
            "called": called,
            "created": dist.distributed_c10d._world.group_count - count,
            "same_infra": provider.get_or_build_infra() is provider.build_infra() is infra,
            "untouched": spec.params.keys() == given.params.keys() and plain(spec) == plain(given),
            "participating": infra.participating_modules,
            "absent": [name for name, collection in infra.pg_collections.items() if collection is None],
            "ndim": infra.module_output_ndim,
            "topology": infra.topology,
            "sizes": (
                provider.tensor_model_parallel_size,
                provider.pipeline_model_parallel_size,
                provider.context_parallel_size,
            ),
            "in_grid": [library.is_current_rank_in_grid(grid) for grid in infra.module_to_grid_map.values()],
            "rank": rank,
        }


def reducing(pairs: list[tuple[Any, Any]]) -> set[bool]:
    """Whether modules would reduce their gradients now."""
    return {group.is_last_microbatch for module, _ in pairs for group in module.bucket_groups}


def plain(spec: Any) -> dict[str, Any]:
    """The values of a configuration without functions, which do not compare."""
    return {name: value for name, value in vars(spec.params["config"]).items() if not callable(value)}


def parts_of(model: Any) -> list[tuple[Any, ...]]:
    return [
        (shard.key, shard.shape, shard.index, shard.data.detach().float().numpy().copy()) for shard in shards_of(model)
    ]


def bad_losses(text: str) -> dict[str, str]:
    """What a step says on this rank, by the kind of loss function."""
    plan = Plan.from_json(text)
    found = {}
    with world():
        provider = provider_of(plan)
        (model,) = provider.provide_distributed_model()

        def two_values(mask: torch.Tensor, output: torch.Tensor) -> Any:
            loss, _, report = user_specs.summed_loss(mask, output)
            return loss, report

        def masked(mask: torch.Tensor, output: torch.Tensor) -> Any:
            return user_specs.summed_loss(torch.zeros_like(mask), output)

        for name, loss in (("two_values", two_values), ("masked", masked)):
            loop = Loop(plan, model, provider.build_infra(), loss)
            found[name] = refusal(partial(loop.step, 0))
        found["none"] = refusal(lambda: loop.finalize([model], None))
    return found


def refusal(call: Callable[[], Any]) -> str:
    """What a call says if it refuses, else nothing."""
    try:
        call()
    except (ExecutorError, TypeError) as error:
        return str(error)
    return ""


def launches(good: str, others: list[str], limited: str, larger: str) -> dict[str, Any]:
    """What launches say that must end before any group is made, and how many groups there are then."""
    plan = Plan.from_json(good)
    with world() as rank:
        before = len(dist.distributed_c10d._world.pg_map)
        bad = provider_of(plan, language_model_spec=user_specs.language(plan, config=user_specs.config(num_layers=2)))
        said = {
            "plans": refusal(provider_of(Plan.from_json(others[rank])).build_infra),
            "settings": refusal(provider_of(plan, seed=rank).build_infra),
            "limit": refusal(provider_of(Plan.from_json(limited)).build_infra),
            "finalize": refusal(provider_of(Plan.from_json(limited)).finalize),
            "grids_limit": refusal(lambda: library.build_hypercomm_grids(Plan.from_json(limited))),
            "world": refusal(provider_of(Plan.from_json(larger)).build_infra),
            "specs": refusal(bad.build_infra),
        }
        with mock.patch.object(Versions, "installed", return_value=Versions(torch="2.15.0", megatron_core="0.16.1")):
            said["version"] = refusal(provider_of(plan).build_infra)
        groups = len(dist.distributed_c10d._world.pg_map) - before
        return {"said": said, "groups": groups}


def plain_encoder(text: str) -> list[tuple[float, float, int]]:
    """Three steps with an encoder that is not a module of megatron-core."""
    plan = Plan.from_json(text)
    with world():
        provider = provider_of(plan, modality_submodules_spec={"images": user_specs.plain_images(plan)})
        (model,) = provider.provide_distributed_model(pre_wrap_hook=filled)
        loop = Loop(plan, model, provider.build_infra(), user_specs.summed_loss)
        return [loop.step(number) for number in range(3)]


def tied(text: str) -> list[list[Any]]:
    """The tied weight of this rank, as the user's modules draw it and after two steps. Empty if the rank has none."""
    plan = Plan.from_json(text)
    with world() as rank:
        provider = provider_of(
            plan, language_model_spec=user_specs.language(plan, share_embeddings_and_output_weights=True)
        )
        (model,) = provider.provide_distributed_model()
        loop = Loop(plan, model, provider.build_infra(), user_specs.summed_loss)
        if rank not in plan.module("language").ranks:
            loop.step(0), loop.step(1)
            return []
        weight = model.language_model.module.shared_embedding_or_output_weight()
        found = [weight.detach().clone().tolist()]
        loop.step(0), loop.step(1)
        return [*found, weight.detach().tolist()]


def shared_config(text: str) -> dict[str, Any]:
    """The sizes in a rank's configurations after language and the projection were given the same one."""
    plan = Plan.from_json(text)
    with world():
        language, images = user_specs.language(plan), user_specs.images(plan)
        images.submodules["input_projections"][0].params["config"] = language.params["config"]
        provider = provider_of(plan, language_model_spec=language, modality_submodules_spec={"images": images})
        model = provider.provide()
        projections = [one for part in model.modality_submodules.values() for one in part.input_projections]
        return {
            "language": model.config.tensor_model_parallel_size,
            "stages": model.config.pipeline_model_parallel_size,
            "projections": [one.config.tensor_model_parallel_size for one in projections],
        }


def another_grid(text: str) -> str:
    """What provide() says if megatron-core derives other groups than the plan's, from exchanged axes of images."""
    plan = Plan.from_json(text)
    with world():
        provider = provider_of(plan)
        provider.build_infra().module_to_grid_map["images"].shape.reverse()
        return refusal(provider.provide)


def spec_for_the_world(spec: Any) -> dict[str, Any]:
    """The world of a spec that leaves dp to it, outside a launch and within."""
    outside = library.LlavaMimoProvider(plan=spec, bf16=False)
    before = outside.plan.world_size
    with world():
        infra = outside.build_infra()
        library.validate_no_stub_ranks(library.build_hypercomm_grids(spec), dist.get_world_size())
        return {"before": before, "world": infra.plan.world_size, "same": outside.plan is infra.plan}


def dropout(text: str, seed: int) -> dict[str, Any]:
    """Losses and norms of two steps with dropout in the user's specs, and the masks by module and kind."""
    plan = Plan.from_json(text)
    rates = {"hidden_dropout": 0.25, "attention_dropout": 0.25}
    with world(), recorded_masks() as masks:
        provider = provider_of(
            plan,
            language_model_spec=user_specs.language(plan, config=user_specs.config(**rates)),
            modality_submodules_spec={"images": user_specs.images(plan, config=user_specs.vision_config(**rates))},
            seed=seed,
        )
        (model,) = provider.provide_distributed_model(pre_wrap_hook=filled)
        loop = Loop(plan, model, provider.build_infra(), user_specs.summed_loss)
        return {"steps": [loop.step(number) for number in range(2)], "masks": masks}


def llava(text: str) -> dict[str, Any]:
    """The weights that the ready-made provider gives on this rank, before any hook and after wrapping."""
    plan = Plan.from_json(text)
    with world():
        provider = library.LlavaMimoProvider(plan=plan, bf16=False, seed=SEED)
        parts = parts_of(provider.provide())
        (model,) = provider.provide_distributed_model()
        same = all((a[3] == b[3]).all() for a, b in zip(parts, parts_of(model), strict=True))
        wrapped = [type(module).__name__ for _, module in modules_of(model)]
        return {"parts": parts, "same_wrapped": same, "wrapped": wrapped}


def trainer_starts_from(text: str) -> dict[str, Any]:
    plan = Plan.from_json(text)
    with jobs.ready(plan) as (context, groups):
        settings = TrainSettings(dtype="fp32", optimizer="sgd", lr=0.1, distributed_optimizer=False, seed=SEED)
        return {"parts": parts_of(Trainer(plan, groups, Synthetic(plan, seed=7), settings, context.device).model)}


def drawn_by_the_specs(text: str) -> dict[str, Any]:
    """The weights that a user's modules draw, with and without use_cpu_initialization."""
    plan = Plan.from_json(text)
    found = {}
    with world():
        for name, on_cpu in (("device", False), ("cpu", True)):
            provider = provider_of(plan, use_cpu_initialization=on_cpu)
            model = provider.provide()
            found[name] = parts_of(model)
    return found


def drawn_without_broadcast(text: str) -> list[tuple[Any, ...]]:
    """The weights that a user's modules draw on this rank if no lane is given those of another."""
    plan = Plan.from_json(text)
    with world():
        (model,) = provider_of(plan).provide_distributed_model(data_parallel_random_init=False)
        return parts_of(model)


def after_hooks(text: str) -> dict[str, Any]:
    """The dropout masks of a language module that a hook has put in, and the timeouts of groups in seconds."""
    plan = Plan.from_json(text)
    rates = {"hidden_dropout": 0.25, "attention_dropout": 0.25}
    with world(), recorded_masks() as masks:
        provider = provider_of(plan, language_model_spec=user_specs.language(plan, config=user_specs.config(**rates)))

        def replace(models: list[Any]) -> None:
            models[0].language_model = copy.copy(provider.provide().language_model)
            models[0].language_model.__dict__.pop("forward")
            torch.manual_seed(dist.get_rank())

        infra = provider.build_infra()
        (model,) = provider.provide_distributed_model(pre_wrap_hook=[replace, filled])
        Loop(plan, model, infra, user_specs.summed_loss).step(0)
        backends = [group._get_backend(torch.device("cpu")) for _, group in infra.groups if group.size() > 1]
        return {"masks": masks, "timeouts": {one.options._timeout.total_seconds() for one in backends}}


def devices(text: str) -> dict[str, Any]:
    """The devices of the parameters of a frozen model that was made on another device than it is provided for."""
    plan = Plan.from_json(text)
    with world(), mock.patch("executor.start.device.current", return_value=torch.device("meta")):
        provider = library.LlavaMimoProvider(plan=plan, bf16=False, freeze_modality_encoders={"images": True})
        made = {parameter.device.type for parameter in provider.provide().parameters()}
        (model,) = provider.provide_distributed_model(wrap_with_ddp=False)
        frozen = [p for p in model.parameters() if not p.requires_grad]
        buffers = {b.device.type for b in model.buffers()}
        return {
            "made": made,
            "num_frozen": len(frozen),
            "frozen": {p.device.type for p in frozen},
            "all": {p.device.type for p in model.parameters()} | buffers,
        }


def colocated_config(text: str) -> dict[str, Any]:
    """The configuration of colocated bridges beside the bridges of a real model."""
    plan = Plan.from_json(text)
    with world():
        provider = library.LlavaMimoProvider(plan=plan, bf16=False)
        grids = provider.build_infra().module_to_grid_map
        model = provider.provide()
        config = library.build_colocated_comm_config(plan, grids)
        alone = library.build_colocated_comm_config(plan)
        return {
            "topology": config.topology,
            "same_grids": config.module_to_grid_map is grids,
            "alone": {name: grid.shape for name, grid in alone.module_to_grid_map.items()},
            "shapes": {name: grid.shape for name, grid in grids.items()},
            "edges": [(src, dst) for src, targets in config.topology.items() for dst in targets],
            "bridges": [(bridge.src, bridge.dst) for bridge in model.shared_bridges],
        }


def precision(text: str) -> dict[str, Any]:
    """The dtypes by what was asked for, with Float16Module as the wrapper, and a step in bf16."""
    from megatron.core.transformer.module import Float16Module  # noqa: PLC0415

    plan = Plan.from_json(text)
    with world():
        provider = library.LlavaMimoProvider(plan=plan)
        (cast,) = provider.provide_distributed_model()
        own = provider_of(plan, bf16=True)
        (wrapped,) = own.provide_distributed_model(mixed_precision_wrapper=Float16Module)
        found = Loop(plan, wrapped, own.build_infra(), user_specs.summed_loss).step(0)
        kinds = [[type(m).__name__ for m in (module, module.module)] for _, module in modules_of(wrapped)]
        return {
            "cast": {str(p.dtype) for p in cast.parameters()},
            "wrapped": {str(p.dtype) for p in wrapped.parameters()},
            "kinds": kinds,
            "step": found,
            "unwrapped": library.unwrap_mimo_model([wrapped]) is wrapped,
        }


def page(code: str) -> dict[str, Any]:
    """Run the example of docs/library.md as a launcher would."""
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  the page's own code
    return {"losses": names["reported"]}
