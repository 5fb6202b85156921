"""A report in which every section is filled: a plan of eight GPUs, a simulated timeline, and made-up numbers."""

from __future__ import annotations

from planner import Batch, Cluster, Direction, Module, Parallel, Plan, Spec, compile_spec, load_spec
from planner.cost.simulation.durations import Durations
from planner.cost.simulation.schedule import Stage
from planner.cost.simulation.simulate import simulate
from planner.report.build import build_report
from planner.report.content import KeyFigure, MemoryBar, MemoryPanel, MemoryPart, Notice, Report, TrafficRow
from tests import EXAMPLES

EXAMPLE = EXAMPLES / "vision_audio_8gpu.yaml"
BIG = Spec(
    cluster=Cluster(nodes=16_384, gpus_per_node=8),
    batch=Batch(global_size=256 * 4096, micro_size=4096, seq_length=4096),
    modules={
        "language": Module(parallel=Parallel(tp=8, pp=64, dp=128)),
        "images": Module(parallel=Parallel(tp=4, pp=4, dp=4096)),
    },
)


def seconds(stage: Stage, direction: Direction) -> float:
    forward = 0.031 if stage.module == "language" else 0.010 + 0.001 * stage.index
    return forward * (1 if direction is Direction.FORWARD else 2)


def sample(spec: Spec | None = None, plan: Plan | None = None) -> Report:
    plan = plan or compile_spec(spec or load_spec(EXAMPLE))
    timeline = simulate(plan, Durations.of(plan, seconds, lambda _: 0.001, lambda *_: 0.002))
    bars = tuple(
        MemoryBar(
            module=index,
            where=f"{module.name} stage {stage}",
            num_ranks=module.grid.size // module.num_stages,
            parts=(
                MemoryPart("weights", 14e9),
                MemoryPart("optimizer", 30e9),
                MemoryPart("activations", (3 - stage) * 1e9),
            ),
        )
        for index, module in enumerate(plan.modules)
        for stage in range(min(2, module.num_stages))
    )
    return build_report(
        plan,
        "sample.yaml",
        timeline=timeline,
        memory=MemoryPanel(gpu="H100", limit=45.5e9, bars=bars),
        traffic=(
            TrafficRow(
                owner="language", kind="tp", what="activations", wire="NVLink", bytes_per_rank=3.2e10, seconds=0.08
            ),
        ),
        facts=(KeyFigure("Step time", "1.66 s", "predicted"),),
        notices=() if plan.warnings else (Notice("example.yaml:1:1: warning[W000] a warning\n    fix: none"),),
    )
