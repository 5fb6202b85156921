"""A lane's tensor as rows: (tokens, hidden), and how many tokens each of its samples has.

All that a bridge carries is rows. Tensors of three dims become rows of equally many tokens per sample; a sequence that
is cut over cp becomes rows by joining the parts of each sample in the order of cp.

    (tokens, hidden), 2 samples of 3 and 1 tokens    a a a b        sizes 3, 1
    the same over cp 2: rank 0 holds a a b, rank 1   a              sizes 2, 1 and 1, 0: cut as torch.tensor_split does
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import attrs
import torch

from planner import Output

from ..errors import ExecutorError

SIZES = "_mimo_bridge_split_sizes"  # where megatron-core's MimoModel notes the tokens of each sample on a tensor


@attrs.frozen(eq=False)
class PackedShape:
    """Tokens of each sample of a lane, and the hidden size."""

    sizes: tuple[int, ...]
    hidden: int

    @property
    def num_rows(self) -> int:
        return sum(self.sizes)

    def elements(self, start: int, num_samples: int) -> slice:
        """Where samples lie in the flat rows."""
        before = sum(self.sizes[:start])
        return slice(before * self.hidden, (before + sum(self.sizes[start : start + num_samples])) * self.hidden)


def flatten(value: torch.Tensor, output: Output) -> torch.Tensor:
    """Rows of a tensor of the declared dims: (tokens, hidden), contiguous."""
    if value.ndim != output.tensor_dims:
        raise ExecutorError(
            f"the spec says tensors of {output.tensor_dims} dims, got one of shape {tuple(value.shape)}"
        )
    if output.tensor_dims == 3:
        value = value.transpose(0, output.batch_dim or 0).flatten(0, 1)
    return value.detach().contiguous()


def sizes_of(value: torch.Tensor, output: Output, num_samples: int, part: tuple[int, int]) -> tuple[int, ...]:
    """Tokens of each sample in a tensor that a source hands on.

    Args:
        part: (cp coord, cp size) of the rank: which part of each sample's tokens the tensor holds.

    Raises:
        ExecutorError: the tensor does not have the samples, or the tokens, that the spec says.
    """
    num_rows = value.shape[:-1].numel()
    fixed, batch_dim = output.tokens_per_sample, output.batch_dim or 0
    if output.tensor_dims == 3 and value.shape[batch_dim] != num_samples:
        rule = f"a lane has {num_samples} samples, along dim {batch_dim} of its tensor, got shape {tuple(value.shape)}"
        raise ExecutorError(f"{rule}; set output.batch_dim, or transpose")
    if fixed is not None:
        sizes = (part_sizes(fixed, part[1])[part[0]],) * num_samples
        if sum(sizes) != num_rows:
            rule = f"tokens_per_sample = {fixed}, so {num_samples} samples are {sum(sizes)} rows, got {num_rows}"
            raise ExecutorError(f"{rule}; leave tokens_per_sample out of the spec where it varies")
        return sizes
    if output.tensor_dims == 3:
        return (value.shape[1 - batch_dim],) * num_samples
    noted: Sequence[int] | None = getattr(value, SIZES, None)
    if noted is None and num_rows and num_samples > 1:
        raise ExecutorError(
            f"{num_rows} rows of {num_samples} samples without their boundaries: set {SIZES} on the tensor"
        )
    sizes = tuple(noted) if noted is not None else (num_rows,) + (0,) * (num_samples - 1)
    if len(sizes) != num_samples or sum(sizes) != num_rows:
        raise ExecutorError(f"{num_rows} rows are not {num_samples} samples of {list(sizes)} tokens")
    return sizes


def restore(flat: torch.Tensor, shape: PackedShape, output: Output) -> torch.Tensor:
    """A tensor of the declared dims from flat rows; shares their memory."""
    if output.tensor_dims == 2:
        return flat.view(-1, shape.hidden)
    lengths = set(shape.sizes)
    if len(lengths) > 1:
        raise ExecutorError(f"samples of one lane in a tensor of 3 dims have equal lengths, got {list(shape.sizes)}")
    value = flat.view(len(shape.sizes), lengths.pop(), shape.hidden)
    return value.transpose(0, output.batch_dim or 0)


def part_sizes(tokens: int, num_parts: int) -> tuple[int, ...]:
    """Tokens of each part of a sample over cp: contiguous parts, the first ones longer, as torch.tensor_split does."""
    return tuple(tokens // num_parts + (part < tokens % num_parts) for part in range(num_parts))


def join(parts: Sequence[torch.Tensor], sizes: Sequence[Sequence[int]]) -> torch.Tensor:
    """Rows of whole samples from the rows of every part; sizes: (part, sample)."""
    cut = [torch.split(part, list(of)) for part, of in zip(parts, sizes, strict=True)]
    return torch.cat([piece for sample in zip(*cut, strict=True) for piece in sample])


def part(rows: torch.Tensor, sizes: Sequence[Sequence[int]], index: int) -> torch.Tensor:
    """The rows of one part, from those of whole samples: what `join` joined."""
    places = [tokens for sample in zip(*sizes, strict=True) for tokens in sample]
    firsts = [0, *accumulate(places)]
    chosen = range(index, len(places), len(sizes))
    return torch.cat([rows[firsts[i] : firsts[i + 1]] for i in chosen])
