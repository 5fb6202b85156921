"""Law: a rank that is stopped, cannot connect or write, or loses its launcher says so without a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import EXAMPLES, ROOT
from tests.executor.jobs import ranks

TINY = str(EXAMPLES / "tiny_4rank.yaml")
COMMAND = [sys.executable, "-m", "executor", "check", TINY]
ORPHAN = """
import os, subprocess, sys, time
subprocess.Popen(sys.argv[2:], stderr=open(sys.argv[1], "w"), env=os.environ | {"TORCHELASTIC_RUN_ID": "a"})
time.sleep(1)
"""


@pytest.fixture
def silent() -> Iterator[dict[str, str]]:
    """The environment of rank 1 of two, if the store's port belongs to a program that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        yield {**os.environ, **ranks.variables(1, 2, int(port)), "PYTHONPATH": str(ROOT)}


def test_a_foreign_program_on_the_stores_port_is_told(silent: dict[str, str]) -> None:
    done = subprocess.run(
        [*COMMAND, "--timeout", "3"], env=silent, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1
    stalled, address = done.stderr.strip().splitlines()[:2]
    assert stalled.startswith("executor: rank 1 made no progress for ")
    assert "(1.2 x --timeout): connecting, at context.py:" in stalled
    assert "which serves it, is frozen or out of reach, or another program listens there" in address
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "code", "said"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "stopped by SIG")]
)
@pytest.mark.parametrize("seconds", [0.3, 1.0])
def test_a_signal_during_the_imports_is_one_line(number: str, code: int, said: str, seconds: float) -> None:
    """If it comes later, on a fast machine, another line is right, but no traceback."""
    process = subprocess.Popen(COMMAND, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(getattr(signal, number))
    _, err = process.communicate(timeout=90)
    assert process.returncode == code
    assert err.startswith(f"executor: rank 0 was {said}")
    assert err.count("\n") == 1


def test_a_rank_ends_with_its_launcher(silent: dict[str, str], tmp_path: Path) -> None:
    said = tmp_path / "err"
    first_of_its_node = silent | {"LOCAL_RANK": "0"}
    subprocess.run([sys.executable, "-c", ORPHAN, str(said), *COMMAND], env=first_of_its_node, timeout=60, check=True)
    deadline = time.monotonic() + 60
    while not said.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "is gone" in said.read_text()


def test_a_port_that_cannot_be_is_one_message() -> None:
    ((code, _, err),) = ranks.run(1, "jobs:command", "check", TINY, env={"MASTER_PORT": "99999"})
    assert (code, err.count("\n")) == (1, 1)
    assert "MASTER_PORT <= 65535, got 99999" in err


def test_a_full_disk_is_one_message() -> None:
    ((code, err),) = ranks.run(1, "injector:command_into", "/dev/full", "train", TINY, "--reference", "--steps", "1")
    assert (code, err) == (1, "executor: rank 0 cannot write: No space left on device\n")
