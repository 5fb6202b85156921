"""How long planning takes, and what it keeps, from 8 to 1,048,576 ranks; beside megatron-core's enumeration.

    uv run --extra executor --group dev python benchmarks/planning.py

Every number is the median of several runs, with the spread from the fastest to the slowest in brackets. The last
column compares with the limit; the exit code is 1 when one is missed. Without megatron-core the comparison is
left out, visibly. The start of the commands is compared with that of an earlier build (`--before`): a folder, or a
commit, whose files git exports.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from layouts import three_modules

from planner import Plan, Spec, compile_spec, load_spec
from planner.base.errors import Faults
from planner.passes.models import resolve_models
from planner.passes.placement import place
from planner.passes.topology import find_edges
from planner.render.rank_view import view_lines

ROOT = Path(__file__).parent.parent
WORLDS = (8, 1_024, 131_072, 1_048_576)
COMPILE_MS, VIEW_US, STREAM_S, COMMAND_S, HELP_S, START_RATIO, FAULTS_S = 50, 100, 20, 0.4, 0.5, 0.6, 0.5
BEFORE = "b60500b"  # the last build that imported everything at once
PLAN = ("-c", "import sys; from planner.cli import main; sys.exit(main())", "plan", "examples/llava_8gpu.yaml")
HELP = ("-m", "executor", "--help")
missed: list[str] = []


def seconds(run: Callable[[], object], repeats: int, inner: int = 1) -> list[float]:
    """Seconds per call, `repeats` times, each over `inner` calls."""
    found = []
    gc.collect()
    gc.disable()  # as timeit does: collections of earlier garbage are nobody's cost
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(inner):
            run()
        found.append((time.perf_counter() - start) / inner)
    gc.enable()
    return found


def report(what: str, values: list[float], unit: str, limit: float | None = None) -> None:
    """One line: median, spread, and whether the limit holds."""
    scale = {"s": 1.0, "ms": 1e3, "us": 1e6, "": 1.0}[unit]
    middle, low, high = (scale * value for value in (median(values), min(values), max(values)))
    verdict = ""
    if limit is not None:
        verdict = f"limit {limit:g}{f' {unit}' if unit else ''}: {'ok' if middle <= limit else 'MISSED'}"
        if middle > limit:
            missed.append(what)
    print(f"  {what:<48} {middle:>9.2f} {unit:<2}  [{low:.2f} .. {high:.2f}]  {verdict}".rstrip())


def compile_whole(spec: Spec) -> Plan:
    """Compile, and do all that is put off until asked for: tables, digest."""
    plan = compile_spec(spec)
    assert plan.digest
    assert plan.num_groups
    return plan


def measure_compile(repeats: int) -> None:
    print("compile, with the digest and every table of the plan")
    for world in WORLDS:
        spec = three_modules(world)
        report(f"{world:,} ranks", seconds(lambda spec=spec: compile_whole(spec), repeats), "ms", COMPILE_MS)
    for world in WORLDS:
        spec = three_modules(world)
        compile_whole(spec)
        tracemalloc.start()
        plan = compile_whole(spec)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        size = len(plan.to_json())
        memory = f"{kept / 1024:>9.1f} KiB kept, {peak / 1024:.1f} at the peak"
        print(f"  {f'{world:,} ranks':<48} {memory}; JSON {size:,} bytes")


def measure_passes(repeats: int) -> None:
    print("passes at 1,048,576 ranks")
    spec = three_modules(WORLDS[-1])
    report("topology", seconds(lambda: find_edges(spec, Faults()), repeats, 20), "us")
    report("models", seconds(lambda: resolve_models(spec, Faults()), repeats, 20), "us")
    report("placement", seconds(lambda: place(spec, None, Faults()), repeats, 20), "us")
    report("the whole plan, without its digest", seconds(lambda: compile_spec(spec), repeats, 20), "us")


def measure_command(repeats: int) -> None:
    print("the command `mimo plan examples/llava_8gpu.yaml`, in a process of its own")
    with tempfile.TemporaryDirectory() as kept, tempfile.TemporaryDirectory() as empty:
        run = in_a_process(ROOT, PLAN, Path(kept))
        run()
        report("wall time, compiled modules kept", seconds(run, repeats), "s", COMMAND_S)
        bare = in_a_process(ROOT, PLAN, Path(empty), PYTHONDONTWRITEBYTECODE="1")
        report("wall time, nothing compiled before", seconds(bare, repeats), "s")
        helped = in_a_process(ROOT, HELP, Path(kept))
        helped()
        report("`python -m executor --help`", seconds(helped, repeats), "s", HELP_S)
        wrong = Path(kept) / "wrong.yaml"
        wrong.write_text(wrong_text())
        refused = in_a_process(ROOT, ("-m", "planner", "plan", str(wrong)), Path(kept), code=1)
        refused()
        report("a spec with 300 faults", seconds(refused, repeats), "s", FAULTS_S)


def wrong_text() -> str:
    """A spec with three faults in each of a hundred modules."""
    module = "{parallel: {tpp: 2, dp: 0}, model: {preset: clip-vit-l-14-336}, outputt: {tokens_per_sample: 576}}"
    modules = "".join(f"  m{number}: {module}\n" for number in range(100))
    batch = "batch: {global_size: 64, micro_size: 8, seq_length: 2048}\n"
    return f"{batch}modules:\n  language: {{parallel: {{tp: 2}}, model: {{preset: vicuna-7b}}}}\n{modules}"


def in_a_process(
    tree: Path, command: Sequence[str], bytecode: Path, code: int = 0, **environment: str
) -> Callable[[], None]:
    """Something that runs a command of the checkout `tree` once, with compiled modules in the folder `bytecode`."""
    found = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    found |= {"PYTHONPATH": str(tree), "PYTHONPYCACHEPREFIX": str(bytecode), **environment}

    def run() -> None:
        quiet = subprocess.DEVNULL
        done = subprocess.run([sys.executable, *command], cwd=tree, env=found, stdout=quiet, stderr=quiet, check=False)
        assert done.returncode == code, command

    return run


def measure_start(before: str, pairs: int) -> None:
    print(f"start-up, compiled modules kept, beside {before}: {pairs} pairs, one after the other")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(before).resolve() if Path(before).is_dir() else exported(before, Path(folder) / "before")
        if tree is None:
            print(f"  left out: git has no commit {before} here, and there is no such folder")
            return
        for what, command, limit in (
            ("`mimo plan examples/llava_8gpu.yaml`", PLAN, START_RATIO),
            ("`python -m executor --help`", HELP, None),
        ):
            if command is HELP and importlib.util.find_spec("torch") is None:
                print(f"  {what}: left out, torch is not installed, which the build before needs for it")
                continue
            ratios(
                what, in_a_process(ROOT, command, Path(folder)), in_a_process(tree, command, Path(folder)), pairs, limit
            )


def ratios(what: str, now: Callable[[], None], then: Callable[[], None], pairs: int, limit: float | None) -> None:
    """The time of one build as a share of another's, pair by pair: both halves of a pair see the same machine."""
    now(), then()
    found = [(seconds(now, 1)[0], seconds(then, 1)[0]) for _ in range(pairs)]
    report(f"{what}, now", [one for one, _ in found], "ms")
    report(f"{what}, before", [other for _, other in found], "ms")
    report(f"{what}, ratio", [one / other for one, other in found], "", limit)


def exported(commit: str, folder: Path) -> Path | None:
    """The files of a commit in a folder of their own; None if git does not have it."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)  # noqa: S607
    if archive.returncode:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def measure_views(repeats: int) -> None:
    print("one view; ranks of language, images and audio")
    for world in WORLDS:
        plan = compile_spec(three_modules(world))
        plan.view(0)
        for rank in (0, plan.module("images").ranks[0], world - 1):
            times = seconds(lambda plan=plan, rank=rank: plan.view(rank), repeats, 200)
            report(f"rank {rank:,} of {world:,}", times, "us", VIEW_US)
    colocated = compile_spec(load_spec(ROOT / "examples" / "llava_8gpu_colocated.yaml"))
    report("a rank of two modules", seconds(lambda: colocated.view(3), repeats, 200), "us", VIEW_US)
    print("all views of 131,072 ranks, streamed to JSON lines")
    plan = compile_spec(three_modules(131_072))

    def stream() -> None:
        with open(os.devnull, "w") as sink:
            sink.writelines(view_lines(plan, range(plan.world_size)))

    report("131,072 views", seconds(stream, 2), "s", STREAM_S)


def measure_peer(repeats: int) -> None:
    print("all groups of every kind of the language module as lists of ranks")
    if importlib.util.find_spec("megatron") is None:
        print("  left out: megatron-core is not installed")
        return
    os.environ["WORLD_SIZE"] = str(WORLDS[-1])
    warnings.simplefilter("ignore")  # megatron-core warns of each optional package that is missing
    from megatron.core.hyper_comm_grid import HyperCommGrid  # noqa: PLC0415  seconds, and not always there

    for world in WORLDS[:3]:
        plan = compile_spec(three_modules(world))
        grid = plan.module("language").grid
        kinds = [family for family in plan.families if family.owner == "language" and not family.kind.endswith("embd")]
        expert = grid.expert

        def theirs(grid=grid, expert=expert, kinds=kinds) -> list[list[list[int]]]:
            peer = HyperCommGrid(list(grid.sizes), [str(axis) for axis in grid.order], grid.rank_offset)
            sizes = [*(size for _, size in expert.axes), expert.num_stages]
            peer.register_view("expert", sizes, [str(axis) for axis in expert.names], ["pp"])
            return [
                peer.get_rank_enum(
                    [str(a) for a in family.sets.axes], view=None if family.sets.view is grid.dense else "expert"
                )
                for family in kinds
            ]

        def ours(plan=plan, kinds=kinds) -> list[tuple[tuple[int, ...], ...]]:
            return [tuple(plan.groups(family.owner, family.kind)) for family in kinds]

        assert [[tuple(group) for group in kind] for kind in theirs()] == [list(kind) for kind in ours()]
        few = repeats if world < 100_000 else 3
        one, other = seconds(ours, few), seconds(theirs, few)
        report(f"{world:,} ranks, the plan", one, "ms")
        report(f"{world:,} ranks, HyperCommGrid.get_rank_enum", other, "ms")
        print(f"  {'':<48} {median(one) / median(other):>9.2f} of its time")
        first = seconds(lambda plan=plan, kinds=kinds: [plan.groups(f.owner, f.kind)[0] for f in kinds], repeats)
        report(f"{world:,} ranks, one group of each kind", first, "ms")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--before", default=BEFORE, metavar="FOLDER_OR_COMMIT", help=f"the build to compare ({BEFORE})")
    parser.add_argument("--pairs", type=int, default=15, help="runs of each build, for the ratios")
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}\n")
    for measure in (measure_compile, measure_passes, measure_command, measure_views, measure_peer):
        measure(options.repeats)
        print()
    measure_start(options.before, options.pairs)
    print()
    print(f"missed: {', '.join(missed)}" if missed else "every limit holds")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
