"""Point-to-point operations of one edge on one rank, with errors that name the edge and the peer.

Sends are not waited for when they are posted: on a branch that is shorter than another, a destination has gradients
to hand back before its source is ready to take them, and waiting would stop both (a source's warm-up is as long as the
longest path). For the same reason the two directions never share a communicator: with NCCL, forward mail goes out in
group calls, which use the group's communicator, and gradients one by one, which use one per pair of ranks (torch's
ProcessGroupNCCL; not seen on a GPU yet). With gloo nothing is ordered but equal pairs and directions.
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

from .errors import LostPeerError
from .lost import is_lost_rank

Work = Any  # torch's handles of an operation differ by backend


@attrs.frozen(eq=False)
class Mail:
    """A tensor to send to a rank, or a buffer to receive from it."""

    tensor: torch.Tensor
    peer: int
    sends: bool = False


@attrs.frozen(eq=False)
class Posted:
    """Operations under way. Holds their tensors until they have ended."""

    name: str
    works: tuple[tuple[Work, Sequence[Mail]], ...]

    def wait(self) -> None:
        """Raises LostPeerError: a peer died, or did not answer within the group's timeout."""
        for work, mail in self.works:
            with _peers_named(self.name, mail):
                work.wait()

    def have_ended(self) -> bool:
        return all(work.is_completed() for work, _ in self.works)


class Link:
    """The operations of one rank over one edge.

    Attributes:
        num_bytes_sent: to other ranks, of rows; their sample boundaries are not counted.
    """

    def __init__(self, name: str, group_with: Callable[[int], dist.ProcessGroup], max_pending: int = 0) -> None:
        """`max_pending`: posts of sends that may be under way per direction, as many as microbatches in flight; 0 where
        the two directions never are at the same time."""
        self.name = name
        self.num_bytes_sent = 0
        self._group_with, self._max_pending = group_with, max_pending
        self._on_nccl = dist.get_backend() == "nccl"
        self._pending: dict[Direction, deque[Posted]] = {direction: deque() for direction in Direction}

    def send(self, mail: Sequence[Mail], direction: Direction) -> None:
        """Post sends, to be waited for when as many are under way as there may be."""
        pending = self._pending[direction]
        if mail:
            pending.append(self.post(mail, direction))
        while self._on_nccl and pending and pending[0].have_ended():
            pending.popleft()
        while len(pending) > self._max_pending:
            pending.popleft().wait()

    def send_rows(self, mail: Sequence[Mail], direction: Direction) -> None:
        """As `send`, and counted."""
        self.num_bytes_sent += sum(m.tensor.numel() * m.tensor.element_size() for m in mail)
        self.send(mail, direction)

    def flush(self) -> None:
        """Wait for every send. Each has been received when a step has ended."""
        for pending in self._pending.values():
            while pending:
                pending.popleft().wait()

    def post(self, mail: Sequence[Mail], direction: Direction) -> Posted:
        """Start operations; forward with NCCL as one group call, so that none waits for another."""
        if not mail:
            return Posted(self.name, ())
        if self._on_nccl and (direction is Direction.FORWARD or not self._max_pending):
            ops = [dist.P2POp(_operation(m), m.tensor, m.peer, self._group_with(m.peer)) for m in mail]
            return Posted(self.name, tuple((work, mail) for work in dist.batch_isend_irecv(ops)))
        return Posted(self.name, tuple((self._start(m), (m,)) for m in mail))

    def _start(self, mail: Mail) -> Work:
        with _peers_named(self.name, [mail]):
            return _operation(mail)(mail.tensor, mail.peer, group=self._group_with(mail.peer))


def inside(name: str, ranks: Iterable[int], operation: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Run a collective inside a lane of an edge, with an error that names both."""
    with _named(f"bridge {name}: lost one of the ranks {', '.join(map(str, ranks))} of a lane"):
        operation(*args, **kwargs)


def _operation(mail: Mail) -> Callable[..., Any]:
    operation: Callable[..., Any] = dist.isend if mail.sends else dist.irecv
    return operation


@contextmanager
def _peers_named(name: str, mail: Sequence[Mail]) -> Iterator[None]:
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
