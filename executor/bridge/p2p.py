"""Point-to-point operations of one edge on one rank, with errors that name the edge and the peer.

Sends are not waited for when they are posted: on a branch that is shorter than another, a destination has gradients
to hand back before its source is ready to take them, and waiting would stop both (a source's warm-up is as long as the
longest path). NCCL runs the operations of one communicator in their order, so there the two directions have one each,
and what belongs together goes out in one group call (groups.py opens both; not seen on a GPU yet). Gloo orders nothing
but equal pairs and directions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
import torch.distributed as dist

from planner import Direction

from ..errors import LostPeerError
from ..groups.groups import ProcessGroups
from ..start.lost_ranks import is_lost_rank

Work = Any  # torch's handles of an operation differ by backend


@attrs.frozen(eq=False)
class P2PTensor:
    """A tensor to send to a rank, or a buffer to receive from it."""

    tensor: torch.Tensor
    peer: int
    sends: bool = False


@attrs.frozen(eq=False)
class Requests:
    """Operations under way. Holds their tensors until they have ended."""

    name: str
    works: tuple[tuple[Work, Sequence[P2PTensor]], ...]

    def wait(self) -> None:
        """Raises LostPeerError: a peer died, or did not answer within the group's timeout."""
        for work, mail in self.works:
            with _peers_named(self.name, mail):
                work.wait()

    def have_ended(self) -> bool:
        return all(work.is_completed() for work, _ in self.works)


class P2P:
    """The operations of one rank over one edge.

    Attributes:
        num_bytes_sent: to other ranks, of rows; their sample boundaries are not counted.
    """

    def __init__(self, name: str, groups: ProcessGroups, max_pending: int = 0) -> None:
        """`max_pending`: microbatches whose sends may be under way, per direction."""
        self.name = name
        self.num_bytes_sent = 0
        self._groups, self._max_pending = groups, max_pending
        self._pending: dict[Direction, deque[tuple[Requests, ...]]] = {direction: deque() for direction in Direction}

    def send(self, direction: Direction, rows: Sequence[P2PTensor], boundaries: Sequence[P2PTensor] = ()) -> None:
        """Post a microbatch, to be waited for when as many are under way as there may be."""
        self.num_bytes_sent += num_bytes_of(rows)
        pending = self._pending[direction]
        pending.append((self.post(boundaries, direction), self.post(rows, direction)))
        while self._groups.are_separate and all(posted.have_ended() for posted in pending[0]):
            pending.popleft()
            if not pending:
                return
        while len(pending) > self._max_pending:
            self._settle(pending)

    @staticmethod
    def _settle(pending: deque[tuple[Requests, ...]]) -> None:
        for posted in pending.popleft():
            posted.wait()

    def flush(self) -> None:
        """Wait for every send. Each has been received when a step has ended."""
        for pending in self._pending.values():
            while pending:
                self._settle(pending)

    def post(self, mail: Sequence[P2PTensor], direction: Direction) -> Requests:
        """Start operations; with NCCL as one group call per process group, so that none waits for another."""
        if not self._groups.are_separate:
            return Requests(self.name, tuple((self._start(m, direction), (m,)) for m in mail))
        by_group: dict[dist.ProcessGroup, list[P2PTensor]] = {}
        for m in mail:
            by_group.setdefault(self._groups.with_peer(self.name, m.peer, direction), []).append(m)
        works = []
        for group, those in by_group.items():
            ops = [dist.P2POp(_operation(m), m.tensor, m.peer, group) for m in those]
            works += [(work, those) for work in dist.batch_isend_irecv(ops)]
        return Requests(self.name, tuple(works))

    def _start(self, mail: P2PTensor, direction: Direction) -> Work:
        group = self._groups.with_peer(self.name, mail.peer, direction)
        with _peers_named(self.name, [mail]):
            return _operation(mail)(mail.tensor, mail.peer, group=group)


def num_bytes_of(mail: Iterable[P2PTensor]) -> int:
    return sum(m.tensor.numel() * m.tensor.element_size() for m in mail)


def inside(name: str, ranks: Iterable[int], operation: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Run a collective inside a lane of an edge, with an error that names both."""
    with _named(f"bridge {name}: lost one of the ranks {', '.join(map(str, ranks))} of a lane"):
        operation(*args, **kwargs)


def _operation(mail: P2PTensor) -> Callable[..., Any]:
    operation: Callable[..., Any] = dist.isend if mail.sends else dist.irecv
    return operation


@contextmanager
def _peers_named(name: str, mail: Sequence[P2PTensor]) -> Iterator[None]:
    what = ", ".join(f"{'sending to' if m.sends else 'receiving from'} rank {m.peer}" for m in mail)
    with _named(f"bridge {name}: lost the peer while {what}"):
        yield


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Says of a lost rank where it was lost. Another error is this rank's own, and stays as it is."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        raise LostPeerError(f"{what}: {str(error).strip().splitlines()[0][:200]}") from error
