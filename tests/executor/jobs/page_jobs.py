"""What the tests of documented specs run on ranks: modules of a user's own on a spec that says nothing of models."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from megatron.core.transformer.spec_utils import ModuleSpec

from executor import library
from executor.training.synthetic_data import Microbatch
from planner import Batch, Spec, compile_spec
from tests.executor.jobs import provider_jobs, user_specs

ITEM_TOKENS = 4
VOCABULARY = 32256
TINY = Batch(global_size=8, micro_size=4, seq_length=32)  # the page's samples have 4,096 tokens


@attrs.frozen
class OneImageEach:
    """Samples of random text after one image of 8 x 8 pixels."""

    special_token: int

    def microbatch(self, step: int, index: int) -> Microbatch:
        generator = torch.Generator().manual_seed(100 * step + index)
        shape = (TINY.micro_size, TINY.seq_length)
        ids = torch.randint(1, self.special_token, shape, generator=generator)
        ids[:, :ITEM_TOKENS] = self.special_token
        text = {
            "input_ids": ids,
            "labels": ids.roll(-1, 1),
            "loss_mask": torch.ones(shape),
            "position_ids": torch.arange(shape[1]).expand(shape).contiguous(),
        }
        pixels = torch.randn(shape[0], 3, 8, 8, generator=generator)
        return Microbatch(text, {"images": pixels}, {"images": (1,) * shape[0]})


def train(code: str, name: str) -> dict[str, Any]:
    """Build grids and a model on the spec that a page's code gives a name to, and train two steps of short samples."""
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  the page's own code
    spec: Spec = names[name]
    with provider_jobs.world() as rank:
        grids = library.build_hypercomm_grids(spec)
        plan = compile_spec(attrs.evolve(spec, batch=TINY))
        provider = library.MimoModelProvider(
            plan=plan,
            language_model_spec=user_specs.language(plan, vocab_size=VOCABULARY),
            modality_submodules_spec={"images": images()},
            bf16=False,
        )
        (model,) = provider.provide_distributed_model()
        loop = provider_jobs.Loop(plan, model, provider.build_infra(), user_specs.summed_loss)
        loop.samples = OneImageEach(plan.module("images").special_token_id or 0)
        return {
            "steps": [loop.step(number) for number in range(2)],
            "grids": {
                name: (grid.rank_offset, grid.size, grid.is_current_rank_in_grid()) for name, grid in grids.items()
            },
            "rank": rank,
        }


def images() -> ModuleSpec:
    """The plain encoder, in megatron-core's own submodules."""
    return user_specs.images_of(ModuleSpec(module=user_specs.PlainVision, params={"width": 16}), num_stages=1)
