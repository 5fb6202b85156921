"""Encoders that feed encoders, by way of the provider: a user's submodules of one linear layer, and a training loop."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from megatron.core.models.mimo.submodules.base import ModalitySubmodules
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec

from executor.bridge.packed import SIZES
from executor.commands.reference import reference_of
from planner import MIMO_LANGUAGE_MODULE_KEY, Plan
from tests.executor.jobs import user_specs
from tests.executor.jobs.provider_jobs import Loop, filled, parts_of, provider_of, world

INPUT_SIZE = 6
TOKENS = {"images": 7, "audio": 9}
PLACES = {"images": 2, "audio": 12}  # the place in a sample at which the tokens of a module begin


class Mixer(MegatronModule):
    """One layer over a module's own rows, to which it adds what it was handed, summed over each sample."""

    def __init__(self, config: Any, input_size: int, handed_size: int, pg_collection: Any = None) -> None:
        super().__init__(config=config)
        self.tp_group = pg_collection.tp
        self.own = torch.nn.Linear(input_size, config.hidden_size)
        self.handed = torch.nn.Linear(handed_size, config.hidden_size, bias=False) if handed_size else None

    def forward(self, inputs: torch.Tensor, counts: torch.Tensor, handed: torch.Tensor | None = None) -> torch.Tensor:
        """The output of all rows.

        Args:
            inputs: the module's own rows: (rows, input size).
            counts: the number of rows of each sample.
            handed: the output of another module: (its rows, handed size).
        """
        mixed = self.own(inputs)
        if self.handed is not None:
            assert handed is not None
            rows = handed.flatten(0, handed.ndim - 2) if handed.ndim == 2 else handed.transpose(0, 1).flatten(0, 1)
            of_samples = torch.stack([part.sum(dim=0) for part in rows.split(getattr(handed, SIZES))])
            mixed = mixed + self.handed(of_samples).repeat_interleave(counts, dim=0)
        return torch.tanh(mixed)


class MixedSubmodules(ModalitySubmodules):
    """Submodules that use hidden_states beside encoder_inputs and, if told to, note the tokens of each sample.

    With cp, every rank encodes all rows, and hands on its own part of each sample.
    """

    def __init__(self, *args: Any, notes: bool = True, answers: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.notes, self.answers = notes, answers

    def forward(
        self, encoder_inputs: dict[str, Any] | None = None, hidden_states: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        if encoder_inputs is None or not self.answers:
            return None
        inputs = encoder_inputs["mixer"]
        rows = self.encoders["mixer"](**inputs, handed=hidden_states)
        cp, sizes = self.pg_collection.cp, inputs["counts"].tolist()
        if cp.size() > 1:
            parts = [sample.tensor_split(cp.size())[cp.rank()] for sample in rows.split(sizes)]
            rows, sizes = torch.cat(parts), [len(part) for part in parts]
        if self.notes:
            setattr(rows, SIZES, sizes)
        return rows

    def decode(self, embeddings: torch.Tensor, data_batch: dict[str, Any]) -> torch.Tensor:
        raise NotImplementedError


def submodules(handed_size: int, **params: Any) -> ModuleSpec:
    encoder = ModuleSpec(
        module=Mixer,
        params={"config": user_specs.config(), "input_size": INPUT_SIZE, "handed_size": handed_size},
    )
    return ModuleSpec(module=MixedSubmodules, params=params, submodules={"encoders": {"mixer": encoder}})


@attrs.frozen(eq=False)
class Batch:
    batch: dict[str, Any]
    num_items: dict[str, Any]

    def as_batch(self, _: Any) -> dict[str, Any]:
        return self.batch


@attrs.frozen
class Drawn:
    """Microbatches in which a sample has any number of rows of each encoder, also none."""

    plan: Plan

    def microbatch(self, step: int, index: int) -> Batch:
        sizes = self.plan.batch_sizes
        generator = torch.Generator().manual_seed(100 * step + index)
        ids = torch.randint(10, 100, (sizes.micro_size, sizes.seq_length), generator=generator)
        inputs, num_items = {}, {}
        for name, token in TOKENS.items():
            fixed = self.plan.module(name).output.tokens_per_sample
            counts = torch.randint(0, 5, (sizes.micro_size,), generator=generator)
            counts = counts if fixed is None else torch.full_like(counts, fixed)
            rows = torch.randn(int(counts.sum()), INPUT_SIZE, generator=generator)
            inputs[name] = {"mixer": {"inputs": rows, "counts": counts}}
            num_items |= {name: counts.tolist()}
            if (name, MIMO_LANGUAGE_MODULE_KEY) in self.plan.edges:
                for sample, count in enumerate(counts.tolist()):
                    ids[sample, PLACES[name] : PLACES[name] + count] = token
        num_items["counts"] = [1] * sizes.micro_size
        labels = torch.nn.functional.pad(ids[:, 1:], (0, 1))
        mask = (labels >= 10).float()
        positions = torch.arange(sizes.seq_length).expand_as(ids).contiguous()
        text = {"input_ids": ids, "labels": labels, "loss_mask": mask, "position_ids": positions}
        return Batch({**text, "modality_inputs": inputs}, num_items)


def train(text: str, options: dict[str, Any]) -> dict[str, Any]:
    """The loss, gradient norm and tokens of two steps, and this rank's slices of the last gradients."""
    original = Plan.from_json(text)
    plan = reference_of(original) if options.get("reference") else original
    fed = {dst for src, dst in plan.edges if src == "images"}
    with world():
        provider = provider_of(
            plan,
            modality_submodules_spec={
                "images": submodules(0, **options.get("images", {})),
                "audio": submodules(user_specs.config().hidden_size if "audio" in fed else 0),
            },
        )
        (model,) = provider.provide_distributed_model(pre_wrap_hook=filled)
        loop = Loop(plan, model, provider.build_infra(), user_specs.summed_loss)
        loop.samples = Drawn(original)  # type: ignore[assignment]
        steps = [loop.step(number) for number in range(2)]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.main_grad)
        return {"steps": steps, "parts": parts_of(model)}
