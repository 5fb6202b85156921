"""Initial weights that do not depend on the layout, and weights gathered back into one model.

megatron-core describes every parameter of a rank as a slice of a named global tensor (its sharded state dict). So a
rank fills its slices by generating each global tensor from a seed made of its name, and the slices of all ranks put
back in place are the one-rank model, with every overlap a replica that must be equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import attrs
import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from megatron.core.models.mimo.model.base import MimoModel

STANDARD_DEVIATION = 0.02


@attrs.frozen(eq=False)
class Slice:
    """One rank's part of a global tensor.

    Attributes:
        key: name of the global tensor; layers have names of their own.
        shape: shape of the global tensor.
        place: where the part lies, per dim.
        data: the part; a view of the parameter.
    """

    key: str
    shape: tuple[int, ...]
    place: tuple[slice, ...]
    data: torch.Tensor


def slices_of(model: MimoModel) -> Iterator[Slice]:
    """Every parameter of this rank's model, wrapped or not, as slices of global tensors."""
    state = model.sharded_state_dict()
    apply_factories(state)
    for tensor in nested_values(state):
        if isinstance(tensor, ShardedTensor) and tensor.data is not None:
            yield _slice(tensor)


def _slice(tensor: ShardedTensor) -> Slice:
    """Axes put in front (the layer of a stack, the expert) become part of the name."""
    front = tensor.prepend_axis_num
    key = ".".join([tensor.key.replace("module.", ""), *map(str, tensor.global_offset[:front])])
    offsets, shape = tensor.global_offset[front:], tensor.data.shape
    place = tuple(slice(offset, offset + size) for offset, size in zip(offsets, shape, strict=True))
    return Slice(key, tuple(tensor.global_shape[front:]), place, tensor.data)


@torch.no_grad()
def initialize(model: MimoModel, seed: int, *, on_cpu: bool = False) -> None:
    """Fill every parameter: norms' scales 1, biases 0, all else normal with deviation 0.02.

    Args:
        on_cpu: draw on the CPU, which gives the same numbers for every kind of device.
    """
    for part in slices_of(model):
        drawn = _initial(part, seed, torch.device("cpu") if on_cpu else part.data.device)
        part.data.copy_(drawn[part.place])


def _initial(part: Slice, seed: int, device: torch.device) -> torch.Tensor:
    name = part.key
    if _is_norm(name) and "weight" in name:
        return torch.ones(part.shape, device=device)
    if "bias" in name:
        return torch.zeros(part.shape, device=device)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator(device=device).manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(part.shape, generator=generator, device=device) * STANDARD_DEVIATION


def _is_norm(name: str) -> bool:
    return "norm" in name or ".ln_" in name
