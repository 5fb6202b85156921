"""Durations and timelines in words: where the time of a step goes, and which stage waits for which."""

from __future__ import annotations

from .timeline import Timeline


def duration(seconds: float) -> str:
    """Seconds as text of three digits: `812 ms`, `1.25 s`, `40 us`."""
    symbol, size = next(
        ((symbol, size) for symbol, size in (("s", 1.0), ("ms", 1e-3)) if seconds >= 0.9995 * size), ("us", 1e-6)
    )
    amount = seconds / size
    return f"{amount:.3g} {symbol}" if amount < 999.5 else f"{amount:,.0f} {symbol}"


def critical_path(timeline: Timeline, most: int = 4) -> list[str]:
    """What the critical path consists of, the largest share first: `language stage 3 backward: 620 ms (76%)`.

    At most `most` lines name a stage or hop; one more line has the rest, if there is any.
    """
    found: dict[str, float] = {}
    for segment in timeline.path:
        where = f"{segment.where} {segment.direction}"
        found[where] = found.get(where, 0.0) + segment.seconds
    total = timeline.makespan or 1.0
    ranked = sorted(found.items(), key=lambda item: -item[1])
    lines = [f"{where}: {duration(seconds)} ({_share(seconds / total)})" for where, seconds in ranked[:most]]
    if rest := sum(seconds for _, seconds in ranked[most:]):
        lines.append(f"everything else: {duration(rest)} ({_share(rest / total)})")
    return lines


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "under 1%"


def longest_waits(timeline: Timeline, most: int = 4) -> list[str]:
    """The `most` longest waits, by unit and reason: `images stage 0 waits 31 ms for gradients of language stage 0`."""
    found = [
        (seconds, f"{unit} waits {duration(seconds)} for {reason}")
        for index, unit in enumerate(timeline.schedule.units)
        for reason, seconds in timeline.waits(index).items()
    ]
    return [line for _, line in sorted(found, key=lambda item: -item[0])[:most]]
