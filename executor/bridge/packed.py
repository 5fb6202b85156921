"""A lane's tensor as rows, (tokens, hidden), together with how many tokens each of its samples has.

Rows are all that a bridge carries. A tensor of three dims becomes rows with equally many tokens per sample. A sequence
that is cut over cp becomes rows by joining the parts of each sample in cp order:

    (tokens, hidden), 2 samples of 3 and 1 tokens    a a a b         sizes 3, 1
    the same over cp 2: rank 0 holds a a b           a a | b         sizes 2, 1
                        rank 1 holds a               a   |           sizes 1, 0

The first parts of a sample are the longer ones, as with torch.tensor_split.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import attrs
import torch

from planner import Output

from ..errors import ExecutorError

SIZES = "_mimo_bridge_split_sizes"  # the attribute of a tensor in which MimoModel notes the tokens of each sample


@attrs.frozen(eq=False)
class PackedShape:
    """The shape of a lane's rows.

    Attributes:
        sizes: tokens of each sample.
        hidden: hidden size.
    """

    sizes: tuple[int, ...]
    hidden: int

    @property
    def num_rows(self) -> int:
        """Tokens of all samples."""
        return sum(self.sizes)

    @property
    def num_elements(self) -> int:
        """Numbers in all rows."""
        return self.num_rows * self.hidden

    def elements(self, start: int, num_samples: int) -> slice:
        """Which elements of the flat rows belong to `num_samples` samples from sample `start` on."""
        before = sum(self.sizes[:start])
        return slice(before * self.hidden, (before + sum(self.sizes[start : start + num_samples])) * self.hidden)


def flatten(value: torch.Tensor, output: Output) -> torch.Tensor:
    """Rows of a tensor that has the declared dims: (tokens, hidden), contiguous, outside autograd.

    Raises:
        ExecutorError: the tensor has another number of dims.
    """
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
        part: which part of each sample's tokens the tensor holds, as (cp coord, cp size).

    Raises:
        ExecutorError: the tensor does not have the samples, or the tokens, that the spec says.
    """
    num_rows = value.shape[:-1].numel()
    fixed, batch_dim = output.tokens_per_sample, output.batch_dim or 0
    if output.tensor_dims == 3 and value.shape[batch_dim] != num_samples:
        rule = f"a lane has {num_samples} samples, along dim {batch_dim} of its tensor, got shape {tuple(value.shape)}"
        raise ExecutorError(f"{rule}; set output.batch_dim, or transpose")
    if fixed is not None:
        cp_coord, cp_size = part
        sizes = (part_sizes(fixed, cp_size)[cp_coord],) * num_samples
        if sum(sizes) != num_rows:
            rule = f"tokens_per_sample = {fixed}, so {num_samples} samples are {sum(sizes)} rows, got {num_rows}"
            raise ExecutorError(f"{rule}; leave tokens_per_sample out of the spec if it varies")
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
    """A tensor of the declared dims from flat rows, sharing their memory.

    Raises:
        ExecutorError: the tensor would have three dims, and its samples have different lengths.
    """
    if output.tensor_dims == 2:
        return flat.view(-1, shape.hidden)
    lengths = set(shape.sizes)
    if len(lengths) > 1:
        raise ExecutorError(f"samples of one lane in a tensor of 3 dims have equal lengths, got {list(shape.sizes)}")
    value = flat.view(len(shape.sizes), lengths.pop(), shape.hidden)
    return value.transpose(0, output.batch_dim or 0)


def part_sizes(tokens: int, num_parts: int) -> tuple[int, ...]:
    """Tokens in each part of a sample of `tokens` that is cut over cp.

    Parts are contiguous, and the first ones are the longer ones, as with torch.tensor_split.
    """
    return tuple(tokens // num_parts + (index < tokens % num_parts) for index in range(num_parts))


def join(parts: Sequence[torch.Tensor], sizes: Sequence[Sequence[int]]) -> torch.Tensor:
    """Rows of whole samples, from the rows of every part.

    Args:
        parts: rows of each cp rank, (tokens, hidden).
        sizes: tokens of each sample in each part, as (part, sample).
    """
    pieces = [torch.split(rows, list(tokens)) for rows, tokens in zip(parts, sizes, strict=True)]
    return torch.cat([piece for sample in zip(*pieces, strict=True) for piece in sample])


def take_part(rows: torch.Tensor, sizes: Sequence[Sequence[int]], index: int) -> torch.Tensor:
    """The rows of one part, from those of whole samples: the inverse of `join`, for one cp rank.

    Args:
        rows: rows of whole samples, (tokens, hidden).
        sizes: tokens of each sample in each part, as (part, sample).
        index: which part to take: a cp coord.
    """
    lengths = [tokens for sample in zip(*sizes, strict=True) for tokens in sample]
    starts = [0, *accumulate(lengths)]
    chosen = range(index, len(lengths), len(sizes))
    return torch.cat([rows[starts[i] : starts[i + 1]] for i in chosen])
