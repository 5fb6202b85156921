"""What rank 0 prints: the table of `check` and the lines of `train`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import torch.distributed as dist

from planner import Plan

from ..checks.bridges import BridgeTime
from ..checks.groups import Findings
from ..groups.groups import ProcessGroups, StartUp
from .trainer import Step

_MAX_FAULTS = 20


@attrs.frozen
class RankReport:
    """One rank's row of the report. `num_opened` counts the communicators whose first member is this rank."""

    findings: Findings
    start_up: StartUp
    num_opened: int


def gather(findings: Findings, groups: ProcessGroups) -> list[RankReport]:
    """The reports of all ranks, returned on every rank. Collective."""
    mine = RankReport(findings, groups.start_up, groups.num_opened)
    reports: list[RankReport | None] = [None] * groups.plan.world_size
    dist.all_gather_object(reports, mine)
    return [report for report in reports if report is not None]


def faults_of(reports: Sequence[RankReport]) -> list[str]:
    """Every fault that any rank found."""
    return [fault for report in reports for fault in report.findings.faults]


def table(plan: Plan, reports: Sequence[RankReport]) -> str:
    """The table of `check`: groups, communicators and seconds, then the rate of each bridge."""
    rows = [("owner", "groups", "kinds")]
    owners = dict.fromkeys(family.owner for family in plan.families)
    for owner in owners:
        families = [family for family in plan.families if family.owner == owner]
        rows.append((owner, str(sum(map(len, families))), str(sum(1 for family in families if len(family)))))
    seconds = max(report.start_up.seconds for report in reports)
    opened = sum(report.num_opened for report in reports)
    most = max(report.start_up.num_communicators for report in reports)
    lines = [
        f"{plan.world_size} ranks, {plan.num_groups} groups on {opened} communicators, at most {most} on one rank",
        f"created in {seconds:.2f} s on the slowest rank",
        "",
        *_aligned(rows),
    ]
    if plan.bridges:
        bridges: list[tuple[str, ...]] = [("bridge", "strategy", "transfers", "round trip", "MB/s")]
        bridges += [_bridge_row(plan, index, reports) for index in range(len(plan.bridges))]
        lines += ["", *_aligned(bridges)]
    return "\n".join(lines)


def _bridge_row(plan: Plan, index: int, reports: Sequence[RankReport]) -> tuple[str, ...]:
    """A bridge is as slow as its slowest rank."""
    bridge = plan.bridges[index]
    slowest: BridgeTime = max((report.findings.bridges[index] for report in reports), key=lambda time: time.seconds)
    rate = slowest.num_bytes / max(slowest.seconds, 1e-9) / 1e6
    return (
        bridge.name,
        str(bridge.strategy),
        str(len(bridge.transfers)),
        f"{slowest.seconds * 1e3:.1f} ms",
        f"{rate:.1f}",
    )


def verdict(reports: Sequence[RankReport]) -> str:
    """One line if all is as planned, else the faults."""
    faults = faults_of(reports)
    if not faults:
        return "all groups and bridges are as planned"
    shown = faults[:_MAX_FAULTS]
    more = [f"... and {len(faults) - len(shown)} more"] if len(faults) > len(shown) else []
    return "\n".join([f"{len(faults)} faults:", *shown, *more])


def step_line(step: Step) -> str:
    """Progress of one training step."""
    rate = step.num_tokens / max(step.seconds, 1e-9)
    return (
        f"step {step.step:>4}  loss {step.loss:.6f}  grad norm {step.grad_norm:.6f}  "
        f"{rate:>9.0f} tokens/s  {step.memory_bytes / 2**20:.0f} MiB"
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for name, *cells in rows:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        yield "  ".join([f"  {name.ljust(widths[0])}", *padded])
