"""Runs a function on several real ranks: torch and megatron-core are imported once, then ranks are forked.

    results = run(8, "jobs:train", plan_json)

The function is named rather than passed, so that the test's own process need not import torch. It is in a file of this
folder, or in any module whose name has a dot ("benchmarks.start_up_jobs:step"). An exception on a rank reaches the
caller with its traceback. Ranks that are still running then, or at the deadline, are killed, and no other process.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any

from tests import ROOT

_context = multiprocessing.get_context("forkserver")


class RankError(Exception):
    """One or more ranks failed. The text holds the traceback of the first."""


def run(
    world_size: int, function: str, *args: Any, timeout: float = 120, env: dict[str, str] | None = None
) -> list[Any]:
    """The results of `function` ("module:name") by rank, called with `args` on every rank.

    Raises:
        RankError: a rank raised, died, or did not finish within `timeout` seconds.
    """
    results, errors = _run(world_size, function, args, timeout, env or {}, stop_early=True)
    if errors:
        rank, text = min(errors.items())
        others = f"; also failed: {sorted(errors)[1:]}" if len(errors) > 1 else ""
        raise RankError(f"rank {rank}: {text}{others}")
    return [results[rank] for rank in range(world_size)]


def run_all(
    world_size: int, function: str, *args: Any, timeout: float = 120, env: dict[str, str] | None = None
) -> list[Any]:
    """As `run`, but wait for every rank. The result of a rank that failed is the text of its error."""
    results, errors = _run(world_size, function, args, timeout, env or {}, stop_early=False)
    return [results.get(rank, errors.get(rank)) for rank in range(world_size)]


@contextlib.contextmanager
def started(
    world_size: int, function: str, *args: Any, env: dict[str, str] | None = None
) -> Iterator[list[multiprocessing.process.BaseProcess]]:
    """The processes of ranks that run `function`, for tests that look at how they end. They are killed at the end."""
    _start_server()
    port, processes = free_port(), []
    try:
        for rank in range(world_size):
            ours, theirs = _context.Pipe(duplex=False)
            environment = variables(rank, world_size, port) | (env or {})
            process = _context.Process(target=_main, args=(theirs, function, args, environment), daemon=True)
            process.start()
            theirs.close()
            ours.close()
            processes.append(process)
        yield list(processes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _run(
    world_size: int, function: str, args: tuple[Any, ...], timeout: float, env: dict[str, str], *, stop_early: bool
) -> tuple[dict[int, Any], dict[int, str]]:
    _start_server()
    port = free_port()
    pipes, processes = [], []
    for rank in range(world_size):
        ours, theirs = _context.Pipe(duplex=False)
        environment = variables(rank, world_size, port) | env
        process = _context.Process(target=_main, args=(theirs, function, args, environment), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        return _collect(pipes, time.monotonic() + timeout, stop_early)
    finally:
        for process in processes:
            process.join(timeout=2)
            if process.is_alive():
                process.kill()
                process.join()


@functools.cache
def _start_server() -> None:
    """Start the process that imports everything and forks ranks. It finds modules by PYTHONPATH alone, and no GPU."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    saved = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([saved] if saved else [])])
    try:
        _context.set_forkserver_preload([f"{__package__}.preload"])
        forkserver.ensure_running()
    finally:
        if saved is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = saved


def _collect(pipes: list[Connection], deadline: float, stop_early: bool) -> tuple[dict[int, Any], dict[int, str]]:
    results: dict[int, Any] = {}
    errors: dict[int, str] = {}
    waiting = {pipe: rank for rank, pipe in enumerate(pipes)}
    while waiting and not (errors and stop_early):
        ready = wait(list(waiting), max(0, deadline - time.monotonic()))
        if not ready:
            errors |= dict.fromkeys(waiting.values(), "did not finish in time")
            break
        for pipe in ready:
            rank = waiting.pop(pipe)
            try:
                kind, value = pipe.recv()
            except EOFError:
                kind, value = "error", "died without a word"
            (results if kind == "ok" else errors)[rank] = value
    return results, errors


def variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun says to a rank of one node."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _main(pipe: Connection, function: str, args: tuple[Any, ...], variables: dict[str, str]) -> None:
    os.environ.update(variables)
    module, name = function.split(":")
    if "." not in module:
        module = f"{__package__}.{module}"
    try:
        value = ("ok", getattr(importlib.import_module(module), name)(*args))
    except BaseException:  # the caller must see it, whatever it is
        value = ("error", traceback.format_exc())
    pipe.send(value)
    pipe.close()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
