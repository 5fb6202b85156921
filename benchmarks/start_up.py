"""Times the start-up of groups, and a training step, on real processes beside Megatron-Bridge's way in the same run.

    python benchmarks/start_up.py [--repeats 7] [8 16 32]

Megatron-Bridge's way: on every rank, a HyperCommGrid for each module creates all 14 kinds of groups, including those of
other ranks, and the bridge creates its own (with gloo here; megatron-core hard-codes NCCL). The two ways take turns,
each on fresh processes, because the second one on the same processes would find sockets, threads and memory warm. A
time is that of the slowest rank, and the ratio is that of the medians over all repeats; below 1, ours is faster.
Ours includes the check that every group is the plan's, which the other way lacks. It must
take at most 0.33 of the other way at every size; the exit code is 1 if it does not. The step of a toy
model on 8 processes is timed with the executor's communicator and with the stock one, both on the plan's groups, so
that the ratio is that of the bridges alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

LAYOUTS = {
    8: ({"tp": 2, "pp": 2}, {"tp": 2, "dp": 2}),
    16: ({"tp": 2, "pp": 2, "dp": 2}, {"tp": 2, "dp": 4}),
    32: ({"tp": 4, "pp": 2, "dp": 2}, {"tp": 2, "dp": 8}),
}
TO_REACH = 0.33


def main() -> int:
    from tests.executor.jobs import ranks, specs  # noqa: PLC0415  found by the path set above

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=list(LAYOUTS), help="numbers of processes")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    slow = False
    for size in options.sizes:
        language, images = LAYOUTS[size]
        plan = specs.plan(language, images, micro_size=8, fixed=True)
        text, ours, theirs = plan.to_json(), [], []
        for _ in range(options.repeats):
            run = ranks.run(size, "benchmarks.start_up_jobs:ours", text, timeout=300)
            ours.append(max(seconds for seconds, _ in run))
            theirs.append(max(ranks.run(size, "benchmarks.start_up_jobs:theirs", text, timeout=300)))
        ratio = median(ours) / median(theirs)
        print(
            f"{size:>3} processes  {plan.num_groups} groups  {sum(opened for _, opened in run)} communicators  "
            f"{_spread(ours)}, all-create-all {_spread(theirs)}, ratio {ratio:.2f}",
            flush=True,
        )
        slow |= ratio > TO_REACH
    if 8 in options.sizes:
        _step_time(specs.plan(*LAYOUTS[8], micro_size=8, fixed=True).to_json(), options.repeats)
    return int(slow)


def _step_time(text: str, repeats: int) -> None:
    """Time the executor's communicator and the stock one in turns on fresh processes, both on the plan's groups."""
    from tests.executor.jobs import ranks  # noqa: PLC0415  found by the path set above

    ours, stock = [], []
    for _ in range(repeats):
        ours.append(max(ranks.run(8, "benchmarks.start_up_jobs:step", text, False, timeout=300)))
        stock.append(max(ranks.run(8, "benchmarks.start_up_jobs:step", text, True, timeout=300)))
    ratio = median(ours) / median(stock)
    print(f"  8 processes  step of a toy model {_spread(ours)}, stock bridge {_spread(stock)}, ratio {ratio:.2f}")


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.3f} s ({min(seconds):.3f}-{max(seconds):.3f})"


if __name__ == "__main__":
    sys.exit(main())
