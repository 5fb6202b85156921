"""What the tests of meeting and agreeing run in threads and on ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from torch.distributed import HashStore, PrefixStore, Store

from executor.errors import DisagreementError
from executor.start.agree import Nodes, agree
from executor.start.meet import meet

SHORT = timedelta(seconds=3)


def in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of calls that wait for one another, in order; the text of an error in place of a result."""
    found: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            found[index] = calls[index]()
        except DisagreementError as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def met(store: Store, ranks: list[int], world_size: int) -> list[Any]:
    """What `meet` gives each of the ranks that come, in the order in which they are given."""
    return in_threads([lambda rank=rank: meet(store, rank, world_size, SHORT) for rank in ranks])  # type: ignore[misc]


def agreed(values: list[Mapping[str, str]], *, planned: int | None = None, nodes: list[Nodes] | None = None) -> Any:
    """What ranks that were started with these values are told: one text for all, or the error's."""
    store, world = HashStore(), len(values)
    calls = [
        lambda rank=rank: agree(  # type: ignore[misc]
            PrefixStore("agree", store),
            rank,
            world,
            planned or world,
            values[rank],
            SHORT,
            nodes=nodes[rank] if nodes else None,
        )
        for rank in range(world)
    ]
    told = in_threads(calls)
    assert len({str(text) for text in told}) == 1, told
    assert len({type(text) for text in told}) == 1, "all ranks raise, or none"
    return told[0]
