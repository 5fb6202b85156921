"""Law: help, --version and the misuse of a single process answer at once: they load neither torch nor megatron-core."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import ROOT

PROGRAM = """
import sys
from executor.commands.cli import main
try:
    code = main()
except SystemExit as end:
    code = end.code
print([name for name in ("torch", "megatron", "numpy", "yaml") if name in sys.modules])
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("--help", 0, "create every group and bridge"),
        ("train --help", 0, "SPEC_OR_PLAN"),
        ("--version", 0, "executor "),
        ("train", 2, "usage: python -m executor train"),
        ("train x --steps 0", 2, "argument --steps: expected an integer from 1 to 4294967295, got '0'"),
    ],
)
def test_help_and_misuse_need_no_torch(arguments: str, code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments.split()],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, "[]"), done.stderr
    assert said in done.stdout + done.stderr
