"""Inputs that are made to hurt, from a seed; and a process that gives them to commands one by one and measures each.

    python -m tests.hostile_inputs SEED FIRST COUNT

prints a line of JSON for each input: its number, the command, its exit code, the seconds of processor time and the MB
that it took. The process is ended by the operating system if one input takes CPU_SECONDS or the whole takes MAX_MB of
addresses, and ends with a traceback if a command raises anything. No input is kept: a number and a seed make it anew.
"""

# ruff: noqa: E501  tables of values
# ruff: noqa: T201  it is a command

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from math import lcm
from pathlib import Path
from tempfile import TemporaryDirectory

from planner import compile_spec, load_spec
from planner.cli import main
from tests import DATA, EXAMPLES

CPU_SECONDS = 30  # far above the 5 that an input may take: this is a guard, not a measurement
MAX_MB = 2048  # of addresses, of which an idle process has a few hundred
_RUNS = sorted((DATA / "runs").glob("*.csv"))
_SPECS = [path.read_text() for path in sorted(EXAMPLES.glob("*.yaml"))]
_HARDWARE = (Path(main.__code__.co_filename).parent / "hardware" / "h100.yaml").read_text()

NUMBERS = [
    "0", "1", "-1", "2", "7", "8", "4096", "65536", "1048573", "8388608", "16777213", "16777216", "16777217", "-0.0",
    "4294967296", "9223372036854775808", "1e308", "1e309", "-1e308", ".inf", ".nan", "NaN", "Infinity", "1e-320",
    "9" * 400, "9" * 5000, "0x" + "f" * 300, "1.0000000000000001", "010", "1_0", "true", "null",
]  # fmt: skip
WORDS = [
    "''", '"\\e[2J"', '"\\u202e"', '"a\\nb"', "'\x9b'", "[]", "{}", "[[[[[[1]]]]]]", "{a: {b: {c: {d: 1}}}}", "*a", "&a x",
    "&a [*a]", "!!python/name:os.system x", "<<", "~", "colocated", "h100", "mine.yaml", "../../etc/passwd", "-", "=1+1",
    "x" * 3000, "[" * 400, "{a: " * 200, "vicuna-7b", "language", "images", "full", "2020-01-01", "|", "---", "\x00", "\x1b",
]  # fmt: skip
SIZES = [1, 1, 1, 1, 2, 2, 3, 4, 7, 8, 16, 64, 1024, 4096, 65536, 1 << 20, 1 << 23, 8388593, 16777213, 1 << 24]


def text_of(seed: int, number: int) -> tuple[str, bytes]:
    """The kind and the bytes of an input."""
    draw = random.Random(f"{seed}/{number}")  # noqa: S311  to be repeated, not to be secret
    kind = draw.choice(["built", "built", "spec", "spec", "plan", "csv", "hardware"])
    text = _MAKERS[kind](draw)
    data = text.encode("utf-8", errors="surrogatepass")
    if draw.random() < 0.1:  # broken in the middle of a character, perhaps
        at = draw.randrange(len(data) + 1)
        data = data[:at] + bytes(draw.randrange(256) for _ in range(draw.randrange(4))) + data[at + draw.randrange(9) :]
    return kind, data[: 2**20]


def _mutated(draw: random.Random, text: str) -> str:
    """A text in which a few lines, values and characters were changed."""
    for _ in range(draw.choice([1, 1, 2, 4, 20])):
        lines = text.split("\n")
        at = draw.randrange(len(lines))
        separator = draw.choice([":", ","])
        head, found, _ = lines[at].partition(separator)
        match draw.randrange(9):
            case 0 | 1 | 2:
                lines[at] = f"{head}{found or separator} {draw.choice(NUMBERS + WORDS)}"
            case 3:
                lines[at:at] = [lines[at]] * draw.choice([1, 2, 3000])
            case 4:
                del lines[at]
            case 5:
                lines[at] = " " * draw.choice([1, 2, 40, 5000]) + lines[at]
            case 6:
                text = "\n".join(lines)
                lines = [text[: draw.randrange(len(text) + 1)]]
            case 7:
                cut = draw.randrange(len(lines[at]) + 1)
                lines[at] = (
                    lines[at][:cut] + draw.choice([*WORDS, *NUMBERS, "\t", "\r", '"', "\u2028"]) + lines[at][cut:]
                )
            case _:
                many = draw.choice([10, 1000, 9000])
                indent = " " * draw.choice([0, 2, 4, 6])
                lines[at:at] = [
                    f"{indent}{draw.choice(['k', 'paralel', 'tp'])}{i}: {draw.choice(NUMBERS)}" for i in range(many)
                ]
        text = "\n".join(lines)[: 2**20]
    return text


def _built(draw: random.Random) -> str:
    """A spec that may well be valid, with sizes up to the limits: what compiles is what may then take long."""
    names = ["language", *(f"m{i}" for i in range(draw.choice([0, 1, 1, 1, 2, 5, 40])))]
    large = draw.choice(SIZES)
    lanes, lines = [], []
    offset = draw.random() < 0.2
    for name in names:
        axes = {"tp": 1, "cp": 1, "dp": 1, "pp": 1}
        for axis in draw.sample(sorted(axes), draw.choice([0, 1, 1, 2])):
            axes[axis] = draw.choice([*SIZES[:12], large])
        lanes.append(axes["dp"])
        extra = [f"order: {'-'.join(draw.sample(sorted(axes), 4))}"] if draw.random() < 0.3 else []
        extra += [f"rank_offset: {draw.choice([0, 0, 1, 3, 8, large])}"] if offset else []
        if name == "language" and draw.random() < 0.3:
            extra.append(f"ep: {draw.choice(SIZES[:14])}, expt_tp: {draw.choice(SIZES[:12])}")
        parallel = ", ".join([*(f"{axis}: {size}" for axis, size in axes.items()), *extra])
        lines.append(f"  {name}: {{parallel: {{{parallel}}}{_model(draw, name, axes)}}}")
    micro = min(lcm(*lanes) * draw.choice([1, 1, 2, 7]), draw.choice([2**24, 2**25]))
    many = draw.choice([1, 1, 4, 100, 2**24 // max(micro, 1) or 1])
    topology = [f"  {name}: [{', '.join(draw.sample(names, min(len(names), 3)))}]" for name in names[1:]]
    head = [
        f"cluster: {{gpus_per_node: {draw.choice([1, 2, 3, 8, 4095, 4096])}}}" if draw.random() < 0.7 else "",
        f"batch: {{global_size: {micro * many}, micro_size: {micro}, seq_length: {draw.choice([1, 64, 4096, 2**24])}}}",
        "placement: colocated" if draw.random() < 0.2 and not offset else "",
    ]
    return "\n".join(
        [*head, "modules:", *lines, *(["topology:", *topology] if topology and draw.random() < 0.15 else [])]
    )


def _model(draw: random.Random, name: str, axes: dict[str, int]) -> str:
    if draw.random() < 0.3:
        return ""
    heads = max(axes["tp"] * draw.choice([1, 1, 2]), draw.choice([1, 8, 64]) * axes["tp"] % 2**24)
    layers = max(axes["pp"] * draw.choice([1, 1, 2, 100]), 1)
    hidden = min(heads * draw.choice([2, 64, 128]), 2**24)
    sizes = f"num_layers: {layers}, hidden_size: {hidden}, num_attention_heads: {heads}"
    if name == "language":
        experts = f", num_moe_experts: {draw.choice([8, 4096, 2**24])}" if draw.random() < 0.3 else ""
        return f", model: {{family: gpt, {sizes}, vocab_size: {draw.choice([512, 2**24])}, max_positions: {2**24}{experts}}}"
    return f", model: {{family: vit, {sizes}, image_size: {draw.choice([32, 336, 2**24])}, patch_size: {draw.choice([1, 8])}}}"


def _plan(draw: random.Random) -> str:
    path = draw.choice(sorted(EXAMPLES.glob("*.yaml")))
    document = compile_spec(load_spec(path)).to_json()
    if draw.random() < 0.3:
        found = json.loads(document)
        place = found
        while isinstance(place, dict) and place and draw.random() < 0.7:
            inner = place[draw.choice(sorted(place))]
            place = inner if isinstance(inner, dict) and inner else place
        place.update({f"{draw.choice(['k', 'rank', chr(27)])}{i}": i for i in range(draw.choice([10, 20_000]))})
        document = json.dumps(found)
    return document if draw.random() < 0.2 else _mutated(draw, document)


_MAKERS: dict[str, Callable[[random.Random], str]] = {
    "built": _built,
    "spec": lambda draw: _mutated(draw, draw.choice(_SPECS)),
    "plan": _plan,
    "csv": lambda draw: _mutated(draw, "\n".join(draw.choice(_RUNS).read_text().split("\n")[: draw.choice([3, 6])])),
    "hardware": lambda draw: _mutated(draw, _HARDWARE),
}


def command_of(seed: int, number: int, kind: str, path: str) -> list[str]:
    """The command that is given the input."""
    draw = random.Random(f"{seed}/{number}/command")  # noqa: S311
    if kind == "csv":
        return ["predict", "--csv", path]
    if kind == "hardware":
        return ["predict", str(EXAMPLES / "tiny_4rank.yaml"), "--gpu", path]
    page = f"{path}.html"
    return draw.choice(
        [
            ["plan", path], ["plan", path], ["plan", path, "--rank", "0"], ["plan", path, "--rank", "3", "--format", "json"],
            ["plan", path, "--format", draw.choice(["json", "dot", "mermaid"])], ["predict", path], ["predict", path, "--json"],
            ["report", path, "-o", page], ["report", path, "--trace", page], ["diff", path, path],
            ["plan", path, "--world-size", draw.choice(["8", "16777216"])], ["plan", path, "--strict", "--verify"],
        ]
    )  # fmt: skip


def measure(seed: int, number: int, folder: Path) -> dict[str, object]:
    """Give one input to its command. Raises whatever the command raises, but for the end of misuse."""
    kind, data = text_of(seed, number)
    path = folder / f"input.{'csv' if kind == 'csv' else 'yaml'}"
    path.write_bytes(data)
    command = command_of(seed, number, kind, str(path))
    out, err = io.StringIO(), io.StringIO()
    Path("/proc/self/clear_refs").write_text("5")  # the largest memory so far is counted anew
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # whose signal ends the process
    with redirect_stdout(out), redirect_stderr(err):
        code = main(command)
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - start
    status = Path("/proc/self/status").read_text()
    largest = next(int(line.split()[1]) for line in status.split("\n") if line.startswith("VmHWM"))
    printed = [line for line in err.getvalue().replace("\r", "\n").split("\n") if not line.isprintable()]
    assert not printed, (seed, number, printed[:3])
    assert len(err.getvalue()) < 2**20, (seed, number)
    return {
        "number": number, "kind": kind, "command": " ".join(command[:1] + command[2:]).replace(str(folder), ""), "code": code,
        "seconds": round(seconds, 3), "MB": largest // 1024, "bytes": len(data),
    }  # fmt: skip


def give(seed: int, first: int, count: int) -> None:
    """Give inputs to commands, and print a line for each."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MB * 2**20, MAX_MB * 2**20))
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path in (DATA / "runs").glob("*.yaml"):
            (folder / path.name).write_text(path.read_text())
        os.chdir(folder)
        for number in range(first, first + count):
            print(json.dumps({"begins": number}), flush=True)
            print(json.dumps(measure(seed, number, folder)), flush=True)


if __name__ == "__main__":
    give(*map(int, sys.argv[1:4]))
