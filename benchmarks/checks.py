"""Times what is checked while a model of about 100 million parameters trains, beside its training steps.

    python benchmarks/checks.py [--repeats 3] [--periods 4]

Six processes train it in fp32 with Adam: language with tp 2 and dp 2, images with dp 2. Every fourth step is checked.
The seconds inside the checks are those of a whole period of four steps (fingerprints are also taken after the step
before one that is checked), on the rank that spends the most there. The median step is that of the steps that check
nothing. The share is that of checks every 100 steps, the default: seconds inside / (100 x median step). It grows as
steps get shorter, since the time of the checks depends on parameters more than on tokens; so the steps here are short,
with 512 tokens. The share must be at most 1 % in every repeat; the exit code is 1 if it is not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

import attrs

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from planner import Batch, Plan, compile_spec  # noqa: E402

PERIOD, DEFAULT_EVERY, TO_REACH = 4, 100, 0.01
LANGUAGE = {
    "num_layers": 12,
    "hidden_size": 640,
    "ffn_hidden_size": 1728,
    "num_attention_heads": 8,
    "vocab_size": 8000,
    "max_positions": 128,
}
IMAGES = {
    "num_layers": 10,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "image_size": 32,
    "patch_size": 8,
    "projector_hidden_size": 640,
}


def main() -> int:
    from tests.executor.jobs import ranks  # noqa: PLC0415  found by the path set above

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs, each on fresh processes")
    parser.add_argument("--periods", type=int, default=4, help="checks that are timed in a run")
    options = parser.parse_args()
    plan, shares = plan_of(), []
    num_steps = PERIOD * (1 + options.periods)
    for _ in range(options.repeats):
        found = ranks.run(
            plan.world_size, "benchmarks.checks_jobs:train", plan.to_json(), num_steps, PERIOD, timeout=900
        )
        shares.append(_row(found))
    spread = f"{median(shares):.2%} ({min(shares):.2%}-{max(shares):.2%})"
    print(f"share of checks every {DEFAULT_EVERY} steps: {spread}, at most {TO_REACH:.0%}")
    return int(max(shares) > TO_REACH)


def _row(found: list[dict[str, Any]]) -> float:
    """Print one line, and return the share. The first period, which makes buffers and factors, is left out."""
    sizes = {key: size for rank in found for key, size in rank["sizes"].items()}
    inside = [_slowest(found, "inside", step) for step in range(len(found[0]["inside"]))]
    checks = [sum(inside[first : first + PERIOD]) for first in range(PERIOD - 1, len(inside) - PERIOD + 1, PERIOD)]
    plain = [_slowest(found, "steps", step) for step in range(PERIOD, len(inside)) if 0 < step % PERIOD < PERIOD - 1]
    calls = {name: max(rank["calls"][name] for rank in found) for name in found[0]["calls"]}
    whole = sum(calls.values())
    print(
        f"{sum(sizes.values()) / 1e6:.1f} million parameters  {len(found)} processes  step {_spread(plain)}, "
        f"inside a check {_spread(checks)}: "
        + ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in calls.items()),
        flush=True,
    )
    return median(checks) / (DEFAULT_EVERY * median(plain))


def _slowest(found: list[dict[str, Any]], what: str, step: int) -> float:
    return max(float(rank[what][step]) for rank in found)


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f}-{max(seconds):.2f})"


def plan_of() -> Plan:
    """A model of about 100 million parameters, each with a copy on another rank."""
    from tests.executor.jobs import specs  # noqa: PLC0415  found by the path set above

    plan = specs.plan(
        {"tp": 2, "dp": 2},
        {"dp": 2},
        fixed=False,
        models={"language": specs.language(**LANGUAGE), "images": specs.vision(**IMAGES)},
    )
    spec = plan.to_spec()
    return compile_spec(attrs.evolve(spec, batch=Batch(global_size=4, micro_size=2, seq_length=128)))


if __name__ == "__main__":
    sys.exit(main())
