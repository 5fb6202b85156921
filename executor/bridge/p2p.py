"""Point-to-point operations of one edge on one rank, with errors that name the edge and the peer.

Sends are not waited for when they are posted. On a branch that is shorter than another, a destination has gradients to
hand back before its source is ready to take them, because a source's warm-up is as long as the longest path; waiting
would stop both.

NCCL runs the operations of one communicator in order. With NCCL, therefore, each direction has a communicator of its
own, and operations that belong together go out in one group call (groups.py opens both communicators; not yet seen on
a GPU). Gloo orders only operations of the same pair of ranks in the same direction.
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

Work = Any  # torch's handle of an operation; its type depends on the backend


@attrs.frozen(eq=False)
class P2PTensor:
    """A tensor to send to a rank, or a buffer to receive from it.

    Attributes:
        tensor: the data, contiguous.
        peer: global rank of the other end.
        sends: whether this rank sends the tensor; if not, it receives into it.
    """

    tensor: torch.Tensor
    peer: int
    sends: bool = False


@attrs.frozen(eq=False)
class Requests:
    """Operations under way. Keeps their tensors alive until they have ended.

    Attributes:
        name: name of the edge, for errors.
        works: torch's handles, each with the tensors that it moves.
    """

    name: str
    works: tuple[tuple[Work, Sequence[P2PTensor]], ...]

    def wait(self) -> None:
        """Wait for all operations.

        Raises:
            LostPeerError: a peer died, or did not answer within the group's timeout.
        """
        for work, tensors in self.works:
            with _peers_named(self.name, tensors):
                work.wait()

    def have_ended(self) -> bool:
        """Whether every operation has ended; does not wait."""
        return all(work.is_completed() for work, _ in self.works)


class P2P:
    """The point-to-point operations of one rank over one edge.

    Attributes:
        name: name of the edge.
        num_bytes_sent: bytes of rows sent to other ranks so far; headers are not counted.
    """

    def __init__(self, name: str, groups: ProcessGroups, max_pending: int = 0) -> None:
        """Creates nothing: the groups exist.

        Args:
            max_pending: how many microbatches' sends may be under way in each direction.
        """
        self.name = name
        self.num_bytes_sent = 0
        self._groups, self._max_pending = groups, max_pending
        self._pending: dict[Direction, deque[tuple[Requests, ...]]] = {direction: deque() for direction in Direction}

    def send(self, direction: Direction, rows: Sequence[P2PTensor], headers: Sequence[P2PTensor] = ()) -> None:
        """Post the sends of a microbatch; wait for older ones only if more than `max_pending` are under way."""
        self.num_bytes_sent += num_bytes_of(rows)
        pending = self._pending[direction]
        pending.append((self.post(headers, direction), self.post(rows, direction)))
        while self._groups.has_backward_groups and all(requests.have_ended() for requests in pending[0]):
            pending.popleft()
            if not pending:
                return
        while len(pending) > self._max_pending:
            self._wait_for_oldest(pending)

    @staticmethod
    def _wait_for_oldest(pending: deque[tuple[Requests, ...]]) -> None:
        for requests in pending.popleft():
            requests.wait()

    def flush(self) -> None:
        """Wait for every send. At the end of a step each of them has been received."""
        for pending in self._pending.values():
            while pending:
                self._wait_for_oldest(pending)

    def post(self, tensors: Sequence[P2PTensor], direction: Direction) -> Requests:
        """Start operations. With NCCL, those of one process group are one group call, so that none waits for another.

        Raises:
            LostPeerError: a peer died, and the backend noticed at once.
        """
        if not self._groups.has_backward_groups:
            return Requests(self.name, tuple((self._start(item, direction), (item,)) for item in tensors))
        by_group: dict[dist.ProcessGroup, list[P2PTensor]] = {}
        for item in tensors:
            by_group.setdefault(self._groups.with_peer(self.name, item.peer, direction), []).append(item)
        works = []
        for group, items in by_group.items():
            ops = [dist.P2POp(_operation(item), item.tensor, item.peer, group) for item in items]
            works += [(work, items) for work in dist.batch_isend_irecv(ops)]
        return Requests(self.name, tuple(works))

    def _start(self, item: P2PTensor, direction: Direction) -> Work:
        group = self._groups.with_peer(self.name, item.peer, direction)
        with _peers_named(self.name, [item]):
            return _operation(item)(item.tensor, item.peer, group=group)


def num_bytes_of(tensors: Iterable[P2PTensor]) -> int:
    """Total bytes of the tensors."""
    return sum(item.tensor.numel() * item.tensor.element_size() for item in tensors)


def in_lane(name: str, ranks: Iterable[int], operation: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Run a collective among the ranks of a lane, with an error that names the edge and the ranks.

    Raises:
        LostPeerError: one of the ranks died, or did not come within the group's timeout.
    """
    with _named(f"bridge {name}: lost one of the ranks {', '.join(map(str, ranks))} of a lane"):
        operation(*args, **kwargs)


def _operation(item: P2PTensor) -> Callable[..., Any]:
    operation: Callable[..., Any] = dist.isend if item.sends else dist.irecv
    return operation


@contextmanager
def _peers_named(name: str, tensors: Sequence[P2PTensor]) -> Iterator[None]:
    what = ", ".join(f"{'sending to' if item.sends else 'receiving from'} rank {item.peer}" for item in tensors)
    with _named(f"bridge {name}: lost the peer while {what}"):
        yield


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn the error of a lost rank into one that says what was lost. Any other error is this rank's own, and passes
    as it is."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        raise LostPeerError(f"{what}: {str(error).strip().splitlines()[0][:200]}") from error
