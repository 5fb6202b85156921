"""Drawings of bridges: the lanes on either side and the samples that cross. Blocks that repeat are shown once."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from ..layout.groups import Family
from ..layout.ir import Bridge, Groups, Strategy, Transfer, num_ranks_of
from ..plan import Plan
from .style import Style, listed, plural, wrap

_MAX_SIZED = 4096  # groups that are looked at one by one, if they are not all alike
_MAX_LINES = 6  # lines of one block; the middle of a longer one is left out
_KEPT = _MAX_LINES // 2  # lines at either end of what is left out


def bridge_lines(plan: Plan, bridge: Bridge, style: Style) -> list[str]:
    """The lines that show one bridge: its facts, then its transfers."""
    order = {module.name: i for i, module in enumerate(plan.modules)}
    src, dst = style.module(bridge.src, order[bridge.src]), style.module(bridge.dst, order[bridge.dst])
    num_src, num_dst = len(bridge.src_broadcast), len(bridge.dst_broadcast)
    output = plan.module(bridge.src).output
    tokens = plural(output.tokens_per_sample, "token") if output.tokens_per_sample else "varying tokens"
    facts = [
        f"tensors of {output.tensor_dims} dims;",
        f"{tokens} per sample;",
        *listed([phrase for phrase in _movement(plan, bridge) if phrase]),
    ]
    lines = [
        f"  {src} -> {dst}: {_ratio(num_src, num_dst)}, {plural(len(bridge.transfers), 'transfer')}",
        *(f"    {line}" for line in wrap(facts, style.width - 4)),
    ]
    num_blocks = gcd(num_src, num_dst)  # blocks of lanes that are all alike (layout/bridges.py)
    lines += [f"    {line}" for line in _drawn(bridge.transfers, len(bridge.transfers) // num_blocks)]
    if num_blocks > 1:
        alike = "1 more block" if num_blocks == 2 else f"{num_blocks - 1:,} more blocks"
        lines.append(style.dim(f"    and {alike} of lanes like it"))
    return lines


def _ratio(num_src: int, num_dst: int) -> str:
    if num_src == num_dst:
        return f"{plural(num_src, 'lane')} to as many" if num_src > 1 else "1 lane to 1"
    if num_src % num_dst and num_dst % num_src:
        return f"{num_src:,} lanes to {num_dst:,}"
    return f"fan-{'in' if num_src > num_dst else 'out'}, {plural(num_src, 'lane')} to {num_dst:,}"


def _movement(plan: Plan, bridge: Bridge) -> list[str]:
    """Phrases that say how the bytes move."""
    if bridge.strategy is Strategy.GATHER:
        (gather,) = plan.families_by_owner.get(bridge.name, (None,))
        sizes = f" of {group_sizes(gather)}" if gather is not None and len(gather) else ""
        return ["shared ranks", f"{plural(len(gather) if gather else 0, 'gather group')}{sizes}"]
    num_senders, num_receivers = (num_ranks_of(side.sets.boxes(0)) for side in _lanes(bridge))
    if bridge.strategy is Strategy.SLICES:
        return [f"slices from {num_senders} ranks per lane", f"then gathered by {num_receivers}"]
    return ["leader to leader", f"then broadcast to {num_receivers} ranks" if num_receivers > 1 else ""]


def group_sizes(family: Family) -> str:
    """`8 ranks`, or `2-3 ranks` if the groups differ. Of very many groups only the first ones are looked at."""
    if not len(family):
        return "no ranks"
    if family.sets.translates() is not None:
        return plural(family.group(0).num_ranks, "rank")
    sizes = {family.group(index).num_ranks for index in range(min(len(family), _MAX_SIZED))}
    low, high = min(sizes), max(sizes)
    return plural(low, "rank") if low == high else f"{low:,}-{high:,} ranks"


def _lanes(bridge: Bridge) -> tuple[Groups, Groups]:
    return bridge.src_broadcast, bridge.dst_broadcast


def _drawn(transfers: Sequence[Transfer], count: int) -> list[str]:
    """One line for each of the first `count` transfers; of many, the first and the last ones.

    A lane that is the same as in the line above is left blank and joined to that line.
    """
    shown = list(range(count)) if count <= _MAX_LINES else [*range(_KEPT), *range(count - _KEPT, count)]
    rows = []
    for i in shown:
        t = transfers[i]
        before = transfers[i - 1] if i else None
        after = transfers[i + 1] if i + 1 < count else None
        same_src = before is not None and before.src_lane == t.src_lane
        same_dst = before is not None and before.dst_lane == t.dst_lane
        left = "" if same_src else f"lane {t.src_lane} (rank {t.src_rank})"
        right = "" if same_dst else f"lane {t.dst_lane} (rank {t.dst_rank})"
        samples = f"[{t.src_start}:{t.src_start + t.num_samples}]"
        into = f"[{t.dst_start}:{t.dst_start + t.num_samples}]"
        rows.append((left, samples, _joint(t, before, after), into, right))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines if count <= _MAX_LINES else [*lines[:_KEPT], f"... {count - 2 * _KEPT} more", *lines[_KEPT:]]


def _joint(now: Transfer, before: Transfer | None, after: Transfer | None) -> str:
    """The arrow between the two sides. It branches if a lane sends twice, and joins if a lane receives twice."""
    from_above = before is not None and before.src_lane == now.src_lane
    to_below = after is not None and after.src_lane == now.src_lane
    start = {(False, False): "─", (False, True): "┬", (True, True): "├", (True, False): "└"}[(from_above, to_below)]
    into_above = before is not None and before.dst_lane == now.dst_lane
    into_below = after is not None and after.dst_lane == now.dst_lane
    end = {(False, False): "─", (False, True): "┬", (True, True): "┤", (True, False): "┘"}[(into_above, into_below)]
    head = " " if into_above else ">"
    return f"{'─' if not from_above else ' '}{start}──{end}{'─' if not into_above else ' '}{head}"
