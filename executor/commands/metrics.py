"""The file of `--metrics`: a JSON object per step, whole lines only, behind those of earlier runs.

A restarted run writes on in the file of the attempt before, so each line has the id of its run. A file that holds
something else is left alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from planner.commands.output import Output, output_of

from ..errors import ExecutorError

_TAIL = 1 << 16  # bytes at the end of a file that are looked at


class Metrics:
    """Where the steps of one run are written.

    Attributes:
        is_stdout: whether the lines go to standard output, in place of those for people.
    """

    def __init__(self, output: Output, run: str) -> None:
        """Open the file. `run` is the id of this run, equal on all ranks.

        Raises:
            ExecutorError: the file holds something else than metrics, or cannot be written.
        """
        self._output, self._run = output, run
        self.is_stdout = output.is_stdout
        self._stream = sys.stdout if output.is_stdout else self._opened()

    def _opened(self) -> TextIO:
        target = self._output.target
        try:
            broken = _ends_within_a_line(target, self._output)
            stream = open(target, "a", encoding="ascii")  # noqa: SIM115  open as long as the run
            if broken:
                stream.write("\n")  # what a run that died was writing stays a line of its own
        except OSError as error:
            raise self._cannot_write(error) from None
        return stream

    def write(self, values: Mapping[str, Any]) -> None:
        """Write one step. Raises ExecutorError if that fails: a run without its record is not what was asked for."""
        try:
            self._stream.write(json.dumps({"run": self._run, **values}) + "\n")
            self._stream.flush()
        except OSError as error:
            raise self._cannot_write(error) from None

    def _cannot_write(self, error: OSError) -> ExecutorError:
        return ExecutorError(f"--metrics {self._output.given} cannot be written: {error.strerror or error}")


def metrics_output(given: str | None, spec: str) -> Output | None:
    """Where `--metrics` writes; None if it is left out. Raises MisuseError if nothing can be written there."""
    return None if given is None else output_of("--metrics", given, spec)


def _ends_within_a_line(target: str, output: Output) -> bool:
    """Whether the file's last line is not whole. Raises ExecutorError if the file holds no metrics."""
    if not os.path.isfile(target) or not os.path.getsize(target):
        return False
    with open(target, "rb") as stream:
        stream.seek(max(0, os.path.getsize(target) - _TAIL))
        *lines, rest = stream.read().split(b"\n")
    if lines and not _is_metrics(lines[-1]):
        rule = "holds lines that are no metrics, to which none are added"
        raise ExecutorError(f"--metrics {output.given} {rule}; name another file")
    if not lines and not _is_metrics(rest) and not b'{"run"'.startswith(rest):
        rule = "holds a text that is no metrics, to which none are added"
        raise ExecutorError(f"--metrics {output.given} {rule}; name another file")
    return bool(rest)


def _is_metrics(line: bytes) -> bool:
    """Whether a line is one of ours, or half of one, which a run that died left behind."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return line.startswith((b'{"run"', b'{"step"'))
    return isinstance(found, dict) and "step" in found
