"""Calls that may not return: operations of a store whose host is frozen, writing to a terminal that nobody reads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any


def bounded[T](function: Callable[[], T], seconds: float) -> T:
    """The result of `function`, which runs in a thread of its own. If it does not return, that thread is left behind.

    Raises:
        TimeoutError: there was no result within `seconds`.
        Exception: whatever `function` raised.
    """
    results: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def run() -> None:
        try:
            results.put((True, function()))
        except Exception as error:
            results.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        succeeded, value = results.get(timeout=max(0.0, seconds))
    except Empty:
        raise TimeoutError(f"no answer within {seconds:.1f} s") from None
    if not succeeded:
        raise value
    result: T = value
    return result
