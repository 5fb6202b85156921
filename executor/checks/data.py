"""Whether all ranks draw the same samples, and whether each feeds its modules those that the plan gives its lane.

Modules that sample separately pair the tokens of one sample with the features of another, and nothing fails
(Megatron-Bridge #2956, #5525). So of every microbatch of a checked step, each rank takes fingerprints of every sample's
part of every key: those of the global microbatch are compared over the world, and those of what the model is given with
the planned part of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs
import torch
import torch.distributed as dist

from planner import MIMO_LANGUAGE_MODULE_KEY, Plan, RankView
from planner.layout.batch_keys import INPUT_IDS, LOSS_MASK, MODALITY_INPUTS, POSITION_IDS

from ..groups.groups import ProcessGroups
from ..start.meet import ranks_text
from ..training.slicing import MODALITY_INPUT_IDS, NumItems
from .fingerprints import fingerprint, row_fingerprints
from .world import differing

# The global microbatch as drawn, its `num_items` as `slice_batch` takes it, and what the model's forward pass is given.
Microbatch = tuple[Mapping[str, Any], NumItems, Mapping[str, Any]]

_MROPE_DIMS = 3


@attrs.frozen(kw_only=True)
class Rows:
    """A key of a global microbatch.

    Attributes:
        key: where it stands, as `modality_inputs.images.vit.inputs`.
        module: the encoder whose inputs they are; "" for language's keys.
        prints: a fingerprint per row, (rows).
        counts: rows per sample; None for one each.
    """

    key: str
    module: str
    prints: torch.Tensor
    counts: tuple[int, ...] | None

    def of(self, samples: slice) -> torch.Tensor:
        """The fingerprints of some samples' rows."""
        if self.counts is None:
            return self.prints[samples]
        first = sum(self.counts[: samples.start])
        return self.prints[first : first + sum(self.counts[samples])]


def rows_of(batch: Mapping[str, Any], num_items: NumItems) -> list[Rows]:
    """Every tensor of a global microbatch, in the order of its keys."""
    return [
        Rows(key=".".join(path), module=module, prints=row_fingerprints(by_sample(path, tensor)), counts=counts)
        for path, tensor in _tensors((), batch)
        for module in [path[1] if path[0] == MODALITY_INPUTS else ""]
        for counts in [_counts(path, num_items)]
    ]


def _counts(path: tuple[str, ...], num_items: NumItems) -> tuple[int, ...] | None:
    """The rows per sample of a key: those of the innermost name on its path that has some, as `slice_batch` has it."""
    name = next((name for name in reversed(path) if name in num_items), None)
    return None if name is None else tuple(num_items[name])


def by_sample(path: tuple[str, ...], tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with its samples in front: they are in dim 1 of multimodal rotary positions."""
    return tensor.transpose(0, 1) if path[-1] == POSITION_IDS and tensor.ndim == _MROPE_DIMS else tensor


def _tensors(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    if isinstance(value, Mapping):
        for name in sorted(value):
            yield from _tensors((*path, str(name)), value[name])
    elif isinstance(value, torch.Tensor) and value.ndim:
        yield path, value


def data_faults(groups: ProcessGroups, microbatches: Iterable[Microbatch], device: torch.device) -> Iterator[str]:
    """Samples that differ between ranks, or that are not those of this rank's lanes. Collective over the world."""
    names: list[str] = []
    prints: list[torch.Tensor] = []
    for index, (batch, num_items, given) in enumerate(microbatches):
        rows = rows_of(batch, num_items)
        yield from slice_faults(groups.plan, groups.view, rows, given, index)
        names += [f"data: microbatch {index}: {found.key}" for found in rows]
        prints += [fingerprint(found.prints).to(device) for found in rows]
    world, ranks = dist.group.WORLD, range(groups.plan.world_size)
    assert world is not None, "there is a default group"
    if differing(torch.tensor([len(prints)], device=device), world, ranks):
        yield f"data: rank {groups.rank} has {len(prints)} tensors in its global microbatches, others do not"
    elif prints:
        for place, (usual, others) in differing(torch.stack(prints), world, ranks).items():
            yield f"{names[place]} on {ranks_text(others)} differs from that on {ranks_text(usual)}"


def slice_faults(plan: Plan, view: RankView, rows: list[Rows], given: Mapping[str, Any], index: int) -> Iterator[str]:
    """What a rank's model is given beside the planned part of a global microbatch; a line for each key that differs.

    Args:
        rows: the global microbatch's.
        given: the arguments of the model's forward pass.
        index: the microbatch's.
    """
    where = f"rank {view.rank}: microbatch {index}"
    held = {".".join(path): (path, tensor) for path, tensor in _tensors((), given)}
    for found in rows:
        module = found.module or next(iter(_text_owners(view)))
        if found.module and not (found.module in view.role.modules and view.role.is_first_stage(found.module)):
            continue
        planned = found.of(plan.batch.slice(module, view.rank))
        yield from _compare(f"{where}: {found.key} of {module}", planned, held.get(found.key))
    ids = next(found for found in rows if found.key == INPUT_IDS)
    for name in view.role.modality_module_names:
        key = f"{MODALITY_INPUT_IDS}.{name}"
        planned = ids.of(plan.batch.slice(name, view.rank))
        yield from _compare(f"{where}: {key}", planned, held.get(key))


def _text_owners(view: RankView) -> Iterator[str]:
    """The module whose lane's samples language's keys are sliced for."""
    if MIMO_LANGUAGE_MODULE_KEY in view.role.modules:
        yield MIMO_LANGUAGE_MODULE_KEY
    yield from view.role.modules


def _compare(where: str, planned: torch.Tensor, held: tuple[tuple[str, ...], torch.Tensor] | None) -> Iterator[str]:
    if held is None:
        if len(planned):
            yield f"{where}: {len(planned)} rows are planned, the model is given none"
        return
    found = row_fingerprints(by_sample(*held)).cpu()
    planned = planned.cpu()
    if found.shape != planned.shape:
        yield f"{where}: {len(planned)} rows are planned, the model is given {len(found)}"
    elif not torch.equal(found, planned):
        wrong = (found != planned).nonzero().flatten().tolist()
        same = sorted(found.tolist()) == sorted(planned.tolist())
        what = "in another order than planned" if same else "not those of the lane's samples"
        yield f"{where}: rows {', '.join(map(str, wrong[:8]))} are {what}"


def num_tokens_in(batch: Mapping[str, Any]) -> int | None:
    """The tokens of a global microbatch that count for the loss; None if its mask does not count, or it has none."""
    mask = batch.get(LOSS_MASK)
    if not isinstance(mask, torch.Tensor) or bool(((mask != 0) & (mask != 1)).any()):
        return None
    return int(mask.count_nonzero())  # a sum in bf16 would round
