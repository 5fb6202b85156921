"""Something happens to one rank at one place of its run: it is killed, stopped, terminated, or raises an error.

The rank is a whole one, as `python -m executor` starts it, with the guard and with streams of its own.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import attrs
from torch.distributed import TCPStore

import executor.__main__
import executor.commands.cli
from executor.errors import ExecutorError
from executor.watch import progress
from tests.executor.jobs import preload  # noqa: F401

PHASES = {
    "connecting": ("train", {}),
    "agreeing": ("train", {}),
    "creating groups": ("train", {}),
    "checking": ("check", {}),
    "building the model": ("train", {}),
    "training": ("train", {"step": 1, "microbatch": 1}),
    "ending": ("train", {}),
}
HOW = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "terminate": signal.SIGTERM, "raise": None}


@attrs.frozen
class Case:
    """What happens to which rank, and where.

    Attributes:
        layout: name of a plan.
        how: a key of HOW.
        phase: a key of PHASES.
    """

    layout: str
    how: str
    phase: str
    victim: int

    def __str__(self) -> str:
        return f"{self.layout}: {self.how} rank {self.victim} {self.phase}"


def rank(case: Case, plan: str, folder: str, timeout: float) -> None:
    """One rank of a run. Its streams are files of `folder`; `hit` there appears when the case happens."""
    number = int(os.environ["RANK"])
    for stream, fd in (("out", 1), ("err", 2)):
        os.dup2(os.open(Path(folder) / f"{number}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), fd)
    command, where = PHASES[case.phase]
    if number == case.victim:
        real, is_over = progress.at, []

        def at(phase: str, **detail: Any) -> None:
            real(phase, **detail)
            if phase == case.phase and where.items() <= detail.items() and not is_over:
                is_over.append(True)
                (Path(folder) / "hit").write_text(str(time.time()))
                _happen(case)

        progress.at = at
    steps = ("--steps", "3") if command == "train" else ()
    sys.argv = ["executor", command, plan, "--timeout", str(timeout), *steps]
    executor.__main__.run()


def serve(file: str) -> None:
    """Serve a store as torchrun's agent does, and write its port and the process to `file`."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    part = Path(f"{file}.part")
    part.write_text(f"{store.port} {os.getpid()}")
    part.rename(file)
    time.sleep(600)


def _happen(case: Case) -> None:
    if "FREEZE" in os.environ:
        os.kill(int(os.environ["FREEZE"]), signal.SIGSTOP)
    number = HOW[case.how]
    if number is None:
        raise ExecutorError(f"planted on rank {case.victim}")
    os.kill(os.getpid(), number)


def command_into(stdout: str, *arguments: str) -> tuple[int, str]:
    """The executor's command line with standard output into a file: its exit code and standard error."""
    err = io.StringIO()
    with (
        contextlib.redirect_stderr(err),
        contextlib.suppress(OSError),  # what is still in the buffer when the stream is closed
        Path(stdout).open("w", encoding="utf-8") as stream,
        contextlib.redirect_stdout(stream),
    ):
        code = executor.commands.cli.main(arguments)
    return code, err.getvalue()
