"""The parallel axes and their orders: the one place that spells their names.

A grid has two views of the same ranks. The dense view has the axes tp, cp, dp and pp. The expert view keeps pp and
refactors the other ranks as expt_tp, ep and expt_dp (see layout/coords.py).
"""

from __future__ import annotations

from enum import StrEnum

MAX_SIZE = 2**24  # bound of the size of every axis, of the number of ranks, and of every other count


class Axis(StrEnum):
    """A parallel axis. Tensors have dims, grids have axes."""

    TP = "tp"
    CP = "cp"
    DP = "dp"
    PP = "pp"
    EXPT_TP = "expt_tp"
    EP = "ep"
    EXPT_DP = "expt_dp"


DENSE_AXES = (Axis.TP, Axis.CP, Axis.DP, Axis.PP)
EXPERT_AXES = (Axis.EXPT_TP, Axis.EP, Axis.EXPT_DP, Axis.PP)

# The first axis varies fastest: tp neighbours are adjacent ranks, pp stages are farthest apart.
DEFAULT_ORDER = DENSE_AXES


def format_order(order: tuple[Axis, ...]) -> str:
    """`tp-cp-dp-pp`, the spelling of megatron-core's `order` argument."""
    return "-".join(order)


def parse_order(text: str) -> tuple[Axis, ...]:
    """The axes of `tp-cp-dp-pp`, or of any permutation of it, the fastest first.

    Raises:
        ValueError: `text` is not a permutation of the four dense axes.
    """
    names = text.split("-")
    if sorted(names) != sorted(DENSE_AXES):
        raise ValueError(f"{text!r} is not a permutation of {format_order(DEFAULT_ORDER)}")
    return tuple(Axis(name) for name in names)
