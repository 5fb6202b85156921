"""Predictions against published measured runs: in sample, and with whole model sizes or layouts left out.

    python benchmarks/prediction.py [FOLDER]

FOLDER has the files of tests/data/runs (the default), or longer ones of the same names. Exits with 1 if a limit is
missed. The shipped constants are fitted to the same files; the cross-validation fits them anew, each time without the
runs that it then predicts, and starts from the `start` values of the hardware file. The model's rules, and the starts
of the A100's host times and of many nodes, were chosen with all of these runs in view.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import attrs

from planner import Parallel, compile_spec, load_spec
from planner.cost.measured.accuracy import Errors, choice_loss, cross_validated, samples_of, spearman
from planner.cost.measured.calibrate import Sample, predicted, unfitted
from planner.cost.measured.cells import Row
from planner.cost.measured.csv_file import Runs, read_runs
from planner.cost.measured.measurements import measured_gib
from planner.cost.measured.predict import row_gib
from planner.cost.predict import predict
from planner.cost.timing.hardware import load_hardware

ROOT = Path(__file__).parents[1]
LIMITS = {"b200_llama": 0.05, "a100_single_node": 0.084, "a100_multi_node": 0.12}
_missed: list[str] = []


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "data" / "runs"
    runs = {path.stem.removesuffix("_given"): _read(path) for path in sorted(folder.glob("*.csv"))}
    _memory(runs["b200_llama"])
    _times("b200", {name: runs[name] for name in ("b200_llama",)}, "layout", _layout)
    _times("a100", {name: runs[name] for name in ("a100_single_node", "a100_multi_node")}, "hidden size", _width)
    _unfitted_set(runs["a100_recompute"])
    _speed()
    for line in _missed:
        print("MISSED", line)
    return 1 if _missed else 0


def _read(path: Path) -> Runs:
    return read_runs(path.read_text(), str(path))


def _width(row: Row) -> object:
    return row.text("modules.language.model.hidden_size")


def _layout(row: Row) -> object:
    return tuple(row.text(f"modules.language.parallel.{axis}") for axis in ("tp", "pp", "cp"))


def _limit(what: str, value: float, limit: float, *, low: bool = False) -> str:
    missed = value < limit if low else value > limit
    if missed:
        _missed.append(f"{what}: {value:.4f}, limit {limit}")
    return f"{value:.4f} (limit {limit:g}{', MISSED' if missed else ''})"


def _memory(runs: Runs) -> None:
    found = Errors.of([row_gib(sample.work) for sample in samples_of(runs)], [measured_gib(row) for row in runs.rows])
    print("memory, nothing fitted, b200_llama:")
    print("  mean", _limit("memory mean", found.mean, 0.02), " max", _limit("memory max", found.largest, 0.04))


def _times(gpu: str, runs: dict[str, Runs], left_out: str, key: object) -> None:
    hardware = load_hardware(gpu)
    samples = {name: samples_of(one) for name, one in runs.items()}
    keys = [[key(row) for row in one.rows] for one in runs.values()]  # type: ignore[operator]
    begun = time.perf_counter()
    validated = cross_validated(hardware, list(samples.values()), keys)
    print(f"time, {gpu}: cross-validation by {left_out} took {time.perf_counter() - begun:.0f} s")
    pooled: dict[str, list[tuple[Sample, float]]] = {}
    for name, held_out in zip(runs, validated, strict=True):
        measured = [sample.seconds for sample in samples[name]]
        for how, seconds in (
            ("not fitted at all", predicted(samples[name], unfitted(hardware))),
            ("in sample", predicted(samples[name], hardware)),
            (f"{left_out} left out", held_out),
        ):
            found = Errors.of(seconds, measured)
            limited = how != "not fitted at all"
            mape = _limit(f"{name} {how}", found.mean, LIMITS[name]) if limited else f"{found.mean:.4f}"
            rho = (
                _limit(f"{name} {how} Spearman", found.spearman, 0.97, low=True) if limited else f"{found.spearman:.4f}"
            )
            print(f"  {name}, {how}: MAPE {mape}  max {found.largest:.3f}  Spearman {rho}")
            pairs = list(zip(samples[name], seconds, strict=True))
            if gpu == "a100":
                _choices(f"{name} {how}", pairs, limit=0.03 if limited else None)
            if limited:
                pooled.setdefault(how, []).extend(pairs)
    for how, pairs in pooled.items():
        rho = spearman([seconds for _, seconds in pairs], [sample.seconds for sample, _ in pairs])
        print(f"  {gpu}, all {len(pairs)} runs, {how}: Spearman", _limit(f"{gpu} {how} Spearman", rho, 0.97, low=True))
        if gpu == "a100":
            _choices(how, pairs, limit=0.03)


def _choices(how: str, pairs: list[tuple[Sample, float]], limit: float | None = None) -> None:
    loss, worst, number = choice_loss(*zip(*pairs, strict=True))
    shown = f"{loss:.4f}" if limit is None else _limit(f"choice {how}", loss, limit)
    print(f"    the predicted fastest of {number} choices is slower than the fastest by {shown}  worst {worst:.3f}")


def _unfitted_set(runs: Runs) -> None:
    methods = [row.text("modules.language.recompute") for row in runs.rows]
    every = samples_of(runs)
    for method in ("selective", "full"):
        samples = [sample for sample, one in zip(every, methods, strict=True) if one == method]
        found = Errors.of(predicted(samples, load_hardware("a100")), [sample.seconds for sample in samples])
        print(f"time, a100_recompute, {method}, never fitted: MAPE {found.mean:.4f}  max {found.largest:.3f}")


def _speed() -> None:
    spec = load_spec(ROOT / "examples" / "llama70b_1024gpu.yaml")
    layouts = {"language": Parallel(tp=8, pp=60, dp=8), "images": Parallel(tp=2, dp=96), "audio": Parallel(dp=64)}
    modules = {name: attrs.evolve(spec.modules[name], parallel=layouts[name], stages=None) for name in layouts}
    deeper = attrs.evolve(modules["language"].model, num_layers=120)
    modules["language"] = attrs.evolve(modules["language"], model=deeper)
    batch = attrs.evolve(spec.batch, micro_size=192, global_size=192 * 256)
    large = attrs.evolve(spec, modules=modules, batch=batch, cluster=None)
    for what, one, limit in (("1,024 GPUs", spec, 0.5), ("4,096 GPUs, 256 microbatches", large, 5.0)):
        plan = compile_spec(one)
        begun = time.perf_counter()
        predict(plan)
        seconds = time.perf_counter() - begun
        print(f"a prediction for {what} ({plan.world_size:,} ranks), seconds:", _limit("speed", seconds, limit))


if __name__ == "__main__":
    sys.exit(main())
