"""Times one microbatch over a bridge, forward and backward, beside megatron-core's BridgeCommunicator in the same run.

    python benchmarks/bridges.py [--rounds 9]

There is one lane on either side, with tp 1, 2 and 4, tensors of 16 KB and 8 MB, and real processes over loopback. Both
bridges live in the same processes on the same groups and take turns, round by round. A round is several round trips,
and takes as long as its slowest rank. The ratio is the median of the rounds' ratios; the lowest and the highest stand
beside it. With the strategy that the plan's rule picks here (leader), the bridge must take at most 0.5 of the stock
bridge's time at 16 KB and 0.7 at 8 MB; the exit code is 1 if it does not. The same bridge is also timed with sample
boundaries that travel, and with slices, which cannot win on loopback because all ranks share its cores. The bytes that
every rank sends are counted and must equal those of the plan's messages.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from planner import Batch, Cluster, Model, Module, Output, Parallel, Plan, Spec, compile_spec  # noqa: E402

HIDDEN, SAMPLES = 1024, 2
TO_REACH = {4: 0.5, 2048: 0.7}  # tokens of a microbatch (16 KB and 8 MB of fp32) -> highest ratio allowed
TRIPS = {4: 40, 2048: 4}


def main() -> int:
    from tests.executor.jobs import ranks  # noqa: PLC0415  found by the path set above

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    slow = False
    print("  tp  size    stock ms  ours ms  ratio (lowest-highest)  boundaries travel  slices")
    for tokens, goal in TO_REACH.items():
        for tp in (1, 2, 4):
            plans = [plan_of(tp, tokens, fixed=True), plan_of(tp, tokens, fixed=False)]
            plans += [plan_of(tp, tokens, fixed=False, sliced=True)] if tp > 1 else []
            texts = [plan.to_json() for plan in plans]
            found = ranks.run(
                2 * tp, "benchmarks.bridges_jobs:compare", texts, tokens, TRIPS[tokens], options.rounds, timeout=500
            )
            wrong = [fault for rank in found for fault in rank["faults"]]
            for fault in wrong:
                print(fault)
            slow |= bool(wrong) | (_row(tp, tokens, found) > goal)
    return int(slow)


def _row(tp: int, tokens: int, found: list[dict[str, Any]]) -> float:
    """Print one line, and return the ratio for fixed shapes."""
    rounds = [
        [max(rank["seconds"][kind][i] for rank in found) for i in range(len(found[0]["seconds"][kind]))]
        for kind in range(len(found[0]["seconds"]))
    ]
    stock, *ours = rounds
    ratios = [sorted(mine / other for mine, other in zip(kind, stock, strict=True)) for kind in ours]
    size = "16 KB" if tokens == min(TO_REACH) else "8 MB"
    first, others = ratios[0], "  ".join(f"{median(kind):>12.2f}" for kind in ratios[1:])
    times = f"{median(stock) * 1e3:>9.2f} {median(ours[0]) * 1e3:>8.2f}"
    spread = f"{median(first):.2f} ({first[0]:.2f}-{first[-1]:.2f})"
    print(f"  {tp:>2}  {size:<6} {times}   {spread}          {others}", flush=True)
    return float(median(ratios[0]))


def plan_of(tp: int, tokens: int, *, fixed: bool, sliced: bool = False) -> Plan:
    """The plan of one lane of tp ranks that feeds another.

    With `sliced`, nodes have one rank each and samples may be so long that slices pay.
    """
    model = Model(
        family="gpt",
        num_layers=1,
        hidden_size=HIDDEN,
        num_attention_heads=8,
        vocab_size=128,
        max_positions=tokens if not sliced else 2**20,
    )
    parallel = Parallel(tp=tp, dp=1)
    output = Output(tensor_dims=2, tokens_per_sample=tokens // SAMPLES if fixed else None)
    modules = {
        "images": Module(parallel=parallel, output=output, special_token_id=7),
        "language": Module(parallel=parallel, model=model),
    }
    batch = Batch(global_size=SAMPLES, micro_size=SAMPLES, seq_length=2**20 if sliced else tokens)
    return compile_spec(Spec(batch=batch, modules=modules, cluster=Cluster(gpus_per_node=1 if sliced else 8)))


if __name__ == "__main__":
    sys.exit(main())
