"""Initial weights that do not depend on the layout, and the shards from which one whole model can be gathered.

megatron-core describes every parameter of a rank as a shard of a named global tensor, in its sharded state dict. To
fill a shard, a rank generates the whole global tensor from a seed that is made of its name, and takes its own piece.
Put back in place, the shards of all ranks are the model of a single rank; shards that overlap are replicas, which must
be equal. A vocabulary is that of the model, without its padding, which depends on tp and holds zeros.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import attrs
import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from megatron.core.models.mimo.model.base import MimoModel

from ..watch import progress

STANDARD_DEVIATION = 0.02
_VOCABULARIES = ("language_model.embedding.word_embeddings.weight", "language_model.output_layer.weight")


@attrs.frozen(eq=False)
class Shard:
    """What one rank holds of a global tensor.

    Attributes:
        key: name of the global tensor; each layer, and each expert, has a name of its own.
        shape: shape of the global tensor.
        index: which elements of the global tensor the shard is, as a slice per dim.
        data: the shard itself: a view of the parameter.
    """

    key: str
    shape: tuple[int, ...]
    index: tuple[slice, ...]
    data: torch.Tensor


def shards_of(model: MimoModel) -> Iterator[Shard]:
    """Every parameter of this rank's model, wrapped or not, as shards of global tensors, without padding."""
    state = model.sharded_state_dict()
    apply_factories(state)
    num_words = _num_words(model)
    for tensor in nested_values(state):
        if isinstance(tensor, ShardedTensor) and tensor.data is not None:
            shard = _shard(tensor)
            yield shard if num_words is None or shard.key not in _VOCABULARIES else _without_padding(shard, num_words)


def _num_words(model: MimoModel) -> int | None:
    """Size of the vocabulary before padding; None if the rank's language model does not say."""
    language: Any = model.language_model
    while language is not None and not hasattr(language, "true_vocab_size"):
        language = getattr(language, "module", None)
    return None if language is None else int(language.true_vocab_size)


def _without_padding(shard: Shard, num_words: int) -> Shard:
    """The shard's words; none on a tp rank that holds only padding."""
    rows, *others = shard.index
    first, last = min(rows.start, num_words), min(rows.stop, num_words)
    shape = (num_words, *shard.shape[1:])
    return Shard(shard.key, shape, (slice(first, last), *others), shard.data[: last - first])


def _shard(tensor: ShardedTensor) -> Shard:
    """A shard as megatron-core describes it. Dims that it puts in front (the layer of a stack, the expert) become part
    of the name."""
    front = tensor.prepend_axis_num
    key = ".".join([tensor.key.replace("module.", ""), *map(str, tensor.global_offset[:front])])
    offsets, shape = tensor.global_offset[front:], tensor.data.shape
    index = tuple(slice(offset, offset + size) for offset, size in zip(offsets, shape, strict=True))
    return Shard(key, tuple(tensor.global_shape[front:]), index, tensor.data)


@torch.no_grad()
def initialize(model: MimoModel, seed: int, *, on_cpu: bool = False) -> None:
    """Fill every parameter: scales of norms with 1, biases with 0, all else from a normal distribution with standard
    deviation 0.02.

    Args:
        on_cpu: whether to draw on the CPU, which gives the same numbers for every kind of device.
    """
    for name, parameter in model.named_parameters():
        if name.removeprefix("module.").replace(".module.", ".") in _VOCABULARIES:
            parameter.zero_()  # what no shard fills is padding
    for shard in shards_of(model):
        progress.at("building the model", weight=shard.key)
        drawn = _initial(shard, seed, torch.device("cpu") if on_cpu else shard.data.device)
        shard.data.copy_(drawn[shard.index])


def _initial(shard: Shard, seed: int, device: torch.device) -> torch.Tensor:
    """The whole global tensor."""
    name = shard.key
    if _is_norm(name) and "weight" in name:
        return torch.ones(shard.shape, device=device)
    if "bias" in name:
        return torch.zeros(shard.shape, device=device)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator(device=device).manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shard.shape, generator=generator, device=device) * STANDARD_DEVIATION


def _is_norm(name: str) -> bool:
    return "norm" in name or ".ln_" in name
