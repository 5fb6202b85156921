"""Law: a lost rank is two lines; a failure of this rank keeps its traceback. Texts are those of torch 2.15 and NCCL."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from torch.distributed import DistBackendError, DistNetworkError, DistStoreError

from executor.start.lost_ranks import describe, is_lost_rank
from tests.executor.jobs import ranks, specs

GLOO = "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp"
NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, "
LOST = [
    RuntimeError(f"{GLOO}/pair.cc:561] Connection closed by peer [127.0.0.1]:49316. This is typically caused by a ..."),
    RuntimeError(f"{GLOO}/pair.cc:545] Read error [127.0.0.1]:26265: Connection reset by peer. This is typically ..."),
    RuntimeError(f"{GLOO}/pair.cc:370] Write error [127.0.0.1]:26265: Broken pipe"),
    RuntimeError(f"{GLOO}/unbound_buffer.cc:78] Timed out waiting 2000ms for recv operation to complete"),
    RuntimeError(f"{GLOO}/unbound_buffer.cc:120] Timed out waiting 2000ms for send operation to complete"),
    RuntimeError("Gloo connectFullMesh failed with [../gloo/transport/tcp/pair.cc:144] no error"),
    DistStoreError("wait timeout after 2000ms, keys: /0//1//cpu//0/1"),
    DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shut down?"),
    DistBackendError(
        f"{NCCL}remote process exited or there was a network error, NCCL version 2.27.5\n"
        "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."
    ),
    DistBackendError(
        f"{NCCL}unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\n"
        "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error."
    ),
    DistBackendError("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)"),
]
OWN = [
    DistBackendError(f"{NCCL}invalid usage, NCCL version 2.27.5\nncclInvalidUsage: This usually reflects ..."),
    DistBackendError(
        f"{NCCL}unhandled cuda error, NCCL version 2.27.5\nncclUnhandledCudaError: Call to CUDA function failed."
    ),
    RuntimeError("Backend gloo does not support reduce_scatter"),
    RuntimeError("ProcessGroupNCCL is only supported with GPUs, no GPUs found!"),
    RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc:464] op.preamble.length <= op.nbytes. 20 vs 12."),
    RuntimeError("result type Float can't be cast to the desired output type Bool"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ValueError("Connection closed by peer"),
    TimeoutError("timed out"),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_errors_of_lost_ranks_are_known(error: Exception) -> None:
    assert is_lost_rank(error)


@pytest.mark.parametrize("error", OWN, ids=str)
def test_other_errors_are_not_taken_for_them(error: Exception) -> None:
    assert not is_lost_rank(error)


def test_the_description_has_the_first_line_and_the_place() -> None:
    try:
        raise LOST[8]
    except DistBackendError as error:
        first, second = describe(error, 3, timedelta(seconds=20)).splitlines()
    place = "test_lost_ranks_are_told_apart.py:"
    assert first.startswith(f"rank 3 lost another rank, which died or did not come within 0:00:20, at {place}")
    assert first.endswith(" in test_the_description_has_the_first_line_and_the_place:")
    assert second == f"{NCCL}remote process exited or there was a network error, NCCL version 2.27.5"


@pytest.mark.parametrize(
    ("how", "place", "words"),
    [
        ("dies", "all_reduce", "closed by peer|reset by peer|likely closed"),
        ("is late", "all_reduce", r"Timed out waiting \d+ms for (recv|send) operation"),
        ("skips a group", "_connected", r"wait timeout after \d+ms, keys:"),
    ],
)
def test_what_torch_says_today(how: str, place: str, words: str) -> None:
    """Of two real ranks one is lost. The error of the other is recognized as that, and says where it was."""
    told = ranks.run_all(2, "lost_jobs:lose_rank_1", specs.plan({}, {}).to_json(), how)[0]
    assert isinstance(told, list), told
    lost, text = told
    assert lost, text
    first, second = text.splitlines()
    assert first.endswith(f" in {place}:")
    assert re.search(words, second)
