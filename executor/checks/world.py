"""How ranks compare what they found: all of them learn of a difference, or none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from ..errors import ExecutorError

ABSENT = -(2**62)  # the number of a member that has none; fingerprints are nearer to 0
_MAX_FAULTS = 12


class InconsistentError(ExecutorError):
    """Ranks hold different data or weights, or what they did is not what the plan says. Raised on all ranks."""


def raise_together(faults: Sequence[str], step: int, device: torch.device) -> None:
    """Raise InconsistentError on all ranks if any has a fault. Collective over the world.

    Args:
        faults: what this rank has found, a line each.
    """
    count = torch.tensor([len(faults)], device=device)
    dist.all_reduce(count)
    if not int(count.item()):
        return
    gathered: list[list[str] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, list(faults)[:_MAX_FAULTS])
    lines = list(dict.fromkeys(line for found in gathered for line in found or ()))
    more = [f"... and {len(lines) - _MAX_FAULTS} more"] if len(lines) > _MAX_FAULTS else []
    told = "\n".join([*lines[:_MAX_FAULTS], *more])
    raise InconsistentError(f"step {step}: what runs is not what was planned; no rank goes on\n{told}")


def differing(
    prints: torch.Tensor, group: dist.ProcessGroup, ranks: Sequence[int]
) -> dict[int, tuple[list[int], list[int]]]:
    """Where members of a group have different numbers. Collective over the group.

    Args:
        prints: int64, in the same order on all members; ABSENT where a member has none, and takes no part.
        ranks: the members.

    Returns:
        By place: the ranks that have the number that most of them have, and the other ranks. If there is no majority,
        the first rank's number counts as it.
    """
    both = torch.stack([prints, -prints]).masked_fill(prints == ABSENT, ABSENT)
    dist.all_reduce(both, op=dist.ReduceOp.MAX, group=group)
    differ = (both[0] != -both[1]) & (both[0] != ABSENT)
    if not bool(differ.any()):
        return {}
    gathered = [torch.empty_like(prints) for _ in ranks]
    dist.all_gather(gathered, prints, group=group)
    table = torch.stack(gathered).tolist()
    found = {}
    for place in differ.nonzero().flatten().tolist():
        column = {rank: row[place] for rank, row in zip(ranks, table, strict=True) if row[place] != ABSENT}
        values = list(column.values())
        usual = max(dict.fromkeys(values), key=values.count)
        found[place] = (
            [rank for rank, value in column.items() if value == usual],
            [rank for rank, value in column.items() if value != usual],
        )
    return found
