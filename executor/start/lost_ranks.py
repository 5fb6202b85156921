"""Tells a lost rank from this rank's own failure, by the words that torch uses for it.

When a rank dies or comes late all others fail, each with an error of its own, and none of these errors holds the cause.
The texts are those of torch 2.15, seen with gloo; NCCL's are taken from its sources. Words that also occur in a rank's
own errors (NCCL's invalid usage, its unhandled CUDA errors, gloo's size mismatch) are left out, so that those errors
keep their traceback.
"""

from __future__ import annotations

import re
import traceback
from datetime import timedelta
from pathlib import Path

from torch.distributed import DistNetworkError

_LOST = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe"  # gloo: the peer's process ended
    r"|Timed out waiting \d+ms for (recv|send) operation"  # gloo: the peer is late
    r"|Gloo connectFullMesh failed|timed out connecting"  # gloo: the peer did not come to a new group
    r"|wait timeout after \d+ms, keys:"  # store: the peer did not write its address for a new group
    r"|Connection was likely closed"  # store: gone with the process that hosts it
    r"|ncclRemoteError|ncclSystemError|remote process exited"  # NCCL: the peer's process ended, or the network did
    r"|Watchdog caught collective operation timeout|NCCL communicator was aborted"  # NCCL: the peer is late
)
_PACKAGE = Path(__file__).parents[1]
_MAX_LINE = 200


def is_lost_rank(error: BaseException) -> bool:
    """Whether the cause of an error is on another rank, or in the network between."""
    return isinstance(error, DistNetworkError) or (
        isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
    )


def describe(error: BaseException, rank: int, timeout: timedelta) -> str:
    """Two lines: which `rank` lost another and where in the code, then the first line of torch's text."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    line = line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}..."
    lost = f"rank {rank} lost another rank, which died or did not come within {timeout}"
    return f"{lost}, at {_place(error)}:\n{line}"


def _place(error: BaseException) -> str:
    """The innermost line of this package in the traceback, or of any file if there is none of the package."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if _is_ours(Path(frame.filename))] or list(frames)
    if not inside:
        return "an unknown place"
    last = inside[-1]
    return f"{Path(last.filename).name}:{last.lineno} in {last.name}"


def _is_ours(file: Path) -> bool:
    """Whether a file is of this package, without the two through which calls only pass: the emulation, and gloo.py."""
    return _PACKAGE in file.parents and file.stem not in {"cpu_emulation", "gloo"}
