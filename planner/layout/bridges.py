"""From edges, grids and the batch to transfers, and to the groups that carry them.

One rule for every ratio of lanes: source and destination lanes cut the microbatch into contiguous blocks in
dp order, and a transfer exists wherever a source block and a destination block overlap. With dp 3 -> dp 2
and 6 samples:

    source       |  lane 0   |  lane 1   |  lane 2   |
    destination  |     lane 0      |     lane 1      |
    transfers    |  0 -> 0   |1->0 |1->1 |  2 -> 1   |

The pattern repeats: with g = gcd of the two dp sizes there are g equal *blocks of lanes*: S = src_dp / g source
and D = dst_dp / g destination lanes, with S + D - 1 transfers between them.

Leaders are those of megatron-core 0.19's BridgeCommunicator: the last rank of the source lane's last stage,
the first rank of the destination lane's first stage (over tp and cp).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from math import gcd
from typing import overload

from ..base.axes import Axis
from ..base.frozen import frozen
from ..spec.sections import Batch, Model
from .coords import Box, Translates, merge
from .ir import Bridge, EdgeTransfers, Grid, GroupKind, Groups, ModulePlan, RankSets, Strategy, Transfer, edge_name
from .strategy import choose

_MAX_LISTED = 4096  # transfers of one lane that are listed
BYTES_OF = {"fp32": 4, "bf16": 2, "fp16": 2}


@frozen
class Boundary:
    """One side of an edge: for each lane, the ranks (tp x cp) of the module's boundary stage."""

    grid: Grid
    is_source: bool

    @cached_property
    def stage(self) -> int:
        return self.grid.num_stages - 1 if self.is_source else 0

    @cached_property
    def _strides(self) -> dict[Axis, int]:
        """Stride in ranks of each dense axis."""
        strides, stride = {}, 1
        for axis, size in zip(self.grid.order, self.grid.sizes, strict=True):
            strides[axis] = stride
            stride *= size
        return strides

    @cached_property
    def _lane_digits(self) -> tuple[tuple[int, int], ...]:
        return tuple((self.grid.size_of(axis), self._strides[axis]) for axis in (Axis.TP, Axis.CP))

    @cached_property
    def _lane_dims(self) -> tuple[tuple[int, int], ...]:
        return merge(self._lane_digits)

    @cached_property
    def _start(self) -> int:
        return self.grid.rank_offset + self.stage * self._strides[Axis.PP]

    @cached_property
    def _first_leader(self) -> int:
        """The leader of lane 0: the last of its boundary ranks on the source side, the first on the other side."""
        return self._start + (sum((size - 1) * by for size, by in self._lane_digits) if self.is_source else 0)

    @property
    def num_ranks(self) -> int:
        """Number of boundary ranks in one lane."""
        return self.grid.size_of(Axis.TP) * self.grid.size_of(Axis.CP)

    @cached_property
    def lane_stride(self) -> int:
        """Ranks from one lane to the next."""
        return self._strides[Axis.DP]

    def block(self, first: int, num_lanes: int) -> Box:
        """The boundary ranks of consecutive lanes."""
        return Box.of(self._start + first * self.lane_stride, (*self._lane_digits, (num_lanes, self.lane_stride)))

    def ranks(self, lane: int) -> tuple[int, ...]:
        """The boundary ranks of a lane, ascending."""
        return tuple(self.boxes(lane)[0])

    def leader(self, lane: int) -> int:
        """The rank that sends, or receives, for a lane."""
        return self._first_leader + lane * self.lane_stride

    def leaders(self) -> Box:
        """The leaders of all lanes."""
        return Box.of(self.leader(0), ((len(self), self.lane_stride),))

    def lane_led_by(self, rank: int) -> int | None:
        """The lane whose leader `rank` is, if any."""
        lane = self.lane_of(rank)
        return lane if lane is not None and self.leader(lane) == rank else None

    def lane_of(self, rank: int) -> int | None:
        """The lane of a rank of the boundary stage; None for any other rank."""
        if rank not in self.grid:
            return None
        (pp_size, pp_stride), (dp_size, dp_stride) = self._stage_and_lane
        local = rank - self.grid.rank_offset
        if local // pp_stride % pp_size != self.stage:
            return None
        return local // dp_stride % dp_size

    @cached_property
    def _stage_and_lane(self) -> tuple[tuple[int, int], tuple[int, int]]:
        pp, dp = ((self.grid.size_of(axis), self._strides[axis]) for axis in (Axis.PP, Axis.DP))
        return pp, dp

    # RankSets: the broadcast groups of this side

    def __len__(self) -> int:
        return self.grid.num_lanes

    def boxes(self, index: int) -> Sequence[Box]:
        return (Box(self._start + index * self.lane_stride, self._lane_dims),)

    def translates(self) -> Translates:
        return self._lane_dims, Box.of(self._start, ((len(self), self.lane_stride),))

    def indices(self, rank: int) -> tuple[int, ...]:
        lane = self.lane_of(rank)
        return () if lane is None else (lane,)


@frozen
class Ends:
    """The one group of all ranks that send or receive, in which every transfer of the edge runs.

    It holds the leaders of both sides, or all boundary ranks if lanes send slices.
    """

    src: Boundary
    dst: Boundary
    sliced: bool = False

    def __len__(self) -> int:
        return 1

    @cached_property
    def _boxes(self) -> tuple[Box, Box]:
        if self.sliced:
            return self.src.block(0, len(self.src)), self.dst.block(0, len(self.dst))
        return self.src.leaders(), self.dst.leaders()

    def boxes(self, index: int) -> Sequence[Box]:  # noqa: ARG002  there is only one
        return self._boxes

    def translates(self) -> None:
        return None

    def indices(self, rank: int) -> tuple[int, ...]:
        lane = Boundary.lane_of if self.sliced else Boundary.lane_led_by
        return (0,) if any(lane(side, rank) is not None for side in (self.src, self.dst)) else ()


@frozen
class BlockGather:
    """Groups of an edge whose modules share ranks: for each block of lanes, all boundary ranks of either side.

    The general rule: whatever the two layouts are, the block's samples are all inside its group.
    """

    src: Boundary
    dst: Boundary

    @property
    def _num_blocks(self) -> int:
        return gcd(len(self.src), len(self.dst))

    def __len__(self) -> int:
        return self._num_blocks

    def boxes(self, index: int) -> Sequence[Box]:
        lanes = [(side, len(side) // self._num_blocks) for side in (self.src, self.dst)]
        boxes = (side.block(index * count, count) for side, count in lanes)
        return tuple(dict.fromkeys(boxes))

    def translates(self) -> None:
        return None

    def indices(self, rank: int) -> tuple[int, ...]:
        found = {lane * self._num_blocks // len(side) for side in (self.src, self.dst) for lane in side.indices(rank)}
        return tuple(sorted(found))


@frozen
class LaneGather:
    """The smaller gather groups that suffice among tp replicas, as in megatron-core's colocated bridge.

    They suffice if both sides of every block of lanes are the same ranks, without cp, and one side is a single lane:
    the ranks of the wide side with one tp coord then hold all samples of the block between them. With equal dp no rank
    needs anything from another, and there are no groups.
    """

    wide: Boundary
    num_blocks: int

    @property
    def _num_tp(self) -> int:
        return self.wide.grid.size_of(Axis.TP)

    def __len__(self) -> int:
        return 0 if self.num_blocks == len(self.wide) else self.num_blocks * self._num_tp

    @cached_property
    def _lanes(self) -> tuple[int, int]:
        """The number of the wide side's lanes in each block, and their stride: the digit of every group."""
        return len(self.wide) // self.num_blocks, self.wide.lane_stride

    def boxes(self, index: int) -> Sequence[Box]:
        block, tp = divmod(index, self._num_tp)
        start = self.wide.block(block * self._lanes[0], 1)[tp]
        return (Box.of(start, (self._lanes,)),)

    def translates(self) -> None:
        return None  # their order is by block and tp, not always by lowest rank

    def indices(self, rank: int) -> tuple[int, ...]:
        lanes = self.wide.indices(rank) if len(self) else ()
        tp = self.wide.grid.coord(rank, Axis.TP) if lanes else 0
        return tuple(lane * self.num_blocks // len(self.wide) * self._num_tp + tp for lane in lanes)


@frozen
class Transfers(Sequence[Transfer]):
    """The transfers of an edge in the order of their samples, computed on demand."""

    src: Boundary
    dst: Boundary
    micro_size: int

    @cached_property
    def _blocks(self) -> tuple[int, int, int]:
        """(number of blocks of lanes, S source lanes in each, D destination lanes in each)."""
        count = gcd(len(self.src), len(self.dst))
        return count, len(self.src) // count, len(self.dst) // count

    @cached_property
    def _lane_sizes(self) -> tuple[int, int]:
        """The number of samples in each source lane, and in each destination lane."""
        return self.micro_size // len(self.src), self.micro_size // len(self.dst)

    def __len__(self) -> int:
        count, num_src, num_dst = self._blocks
        return count * (num_src + num_dst - 1)

    @overload
    def __getitem__(self, index: int) -> Transfer: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Transfer, ...]: ...
    def __getitem__(self, index: int | slice) -> Transfer | tuple[Transfer, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"transfer {index} of {len(self)}")
        _, num_src, num_dst = self._blocks
        block, step = divmod(at, num_src + num_dst - 1)
        # Overlap number `step` of the block joins lanes i + k = step with i * D < (k + 1) * S and k * S < (i + 1) * D.
        src = ((step + 1) * num_src - 1) // (num_src + num_dst)
        return self.between(block * num_src + src, block * num_dst + step - src)

    def __iter__(self) -> Iterator[Transfer]:
        return (self[i] for i in range(len(self)))

    def of_source(self, lane: int) -> Sequence[Transfer]:
        """The transfers that leave a source lane: a tuple, unless they are too many to be listed."""
        others = _overlaps(lane, len(self.src), len(self.dst))
        if len(others) > _MAX_LISTED:
            return LaneTransfers(self, lane, True, others)
        return tuple([self.between(lane, other) for other in others])

    def of_destination(self, lane: int) -> Sequence[Transfer]:
        """The transfers that reach a destination lane: a tuple, unless they are too many to be listed."""
        others = _overlaps(lane, len(self.dst), len(self.src))
        if len(others) > _MAX_LISTED:
            return LaneTransfers(self, lane, False, others)
        return tuple([self.between(other, lane) for other in others])

    def between(self, src: int, dst: int) -> Transfer:
        src_size, dst_size = self._lane_sizes
        src_block, dst_block = src * src_size, dst * dst_size
        start = src_block if src_block > dst_block else dst_block
        stop = min(src_block + src_size, dst_block + dst_size)
        leaders = self.src.leader(src), self.dst.leader(dst)
        return Transfer(src, dst, *leaders, start - src_block, start - dst_block, stop - start)


@frozen
class LaneTransfers(Sequence[Transfer]):
    """The transfers of one lane, computed on demand: a lane may feed 16 million others."""

    transfers: Transfers
    lane: int
    is_source: bool
    others: range

    def __len__(self) -> int:
        return len(self.others)

    @overload
    def __getitem__(self, index: int) -> Transfer: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Transfer, ...]: ...
    def __getitem__(self, index: int | slice) -> Transfer | tuple[Transfer, ...]:
        if isinstance(index, slice):
            return tuple(map(self._with, self.others[index]))
        return self._with(self.others[index])

    def _with(self, other: int) -> Transfer:
        return self.transfers.between(*((self.lane, other) if self.is_source else (other, self.lane)))


def _overlaps(lane: int, num_lanes: int, num_others: int) -> range:
    """The lanes of the other side whose blocks overlap the block of `lane`."""
    return range(lane * num_others // num_lanes, ((lane + 1) * num_others - 1) // num_lanes + 1)


@frozen
class EdgeSizes:
    """What the strategy depends on besides the grids; None if the spec does not say.

    Attributes:
        bytes_per_sample: bytes of one sample's tensor at the spec's dtype; of one item if the number of tokens varies.
        gpus_per_node: GPUs per node.
    """

    bytes_per_sample: int | None = None
    gpus_per_node: int | None = None


@frozen
class Edge:
    """An edge with all that its bridge follows from: the two modules' grids and the size of the microbatch."""

    src: str
    dst: str
    source: Boundary
    destination: Boundary
    micro_size: int
    sizes: EdgeSizes = EdgeSizes()

    @property
    def name(self) -> str:
        return edge_name(self.src, self.dst)

    @cached_property
    def transfers(self) -> Transfers:
        return Transfers(self.source, self.destination, self.micro_size)

    @cached_property
    def shares_ranks(self) -> bool:
        return self.source.grid.overlaps(self.destination.grid)

    def group_sets(self) -> Iterator[tuple[GroupKind, RankSets]]:
        """The edge's kinds of groups, in creation order."""
        if self.shares_ranks:
            yield GroupKind.BRIDGE_GATHER, self._gather_sets()
        else:
            yield GroupKind.BRIDGE_SRC, self.source
            yield GroupKind.BRIDGE_DST, self.destination
            yield GroupKind.BRIDGE_P2P, Ends(self.source, self.destination, self.strategy is Strategy.SLICES)

    def _gather_sets(self) -> RankSets:
        sides = (self.source, self.destination)
        num_blocks = gcd(len(self.source), len(self.destination))
        wide = max(sides, key=len)
        one_lane = num_blocks == min(map(len, sides))
        without_cp = all(side.grid.size_of(Axis.CP) == 1 for side in sides)
        first = {side.block(0, len(side) // num_blocks) for side in sides}
        whole = {side.block(0, len(side)) for side in sides}
        if one_lane and without_cp and len(first) == 1 and len(whole) == 1:
            return LaneGather(wide, num_blocks)
        return BlockGather(self.source, self.destination)

    @cached_property
    def strategy(self) -> Strategy:
        per_sample = self.sizes.bytes_per_sample
        samples = self.micro_size // max(len(self.source), len(self.destination))  # of the largest transfer
        return choose(
            shares_ranks=self.shares_ranks,
            crosses_nodes=self._crosses_nodes,
            num_senders=self.source.num_ranks,
            num_receivers=self.destination.num_ranks,
            num_bytes=None if per_sample is None else samples * per_sample,
        )

    @property
    def _crosses_nodes(self) -> bool:
        """Whether any transfer leaves its node.

        The ranks of modules that share none lie one after the other. If the boundary ranks are not all on one node,
        then some lane and a lane that it feeds are not on one node either.
        """
        per_node = self.sizes.gpus_per_node
        if per_node is None:
            return False
        sides = [side.block(0, len(side)) for side in (self.source, self.destination)]
        return len({rank // per_node for side in sides for rank in (side[0], side[-1])}) > 1

    def bridge(self) -> Bridge:
        """The bridge that carries the edge."""
        sides = Groups(self.source), Groups(self.destination)
        return Bridge(self.src, self.dst, self.strategy, self.transfers, *sides)

    def transfers_of(self, rank: int) -> EdgeTransfers | None:
        """What `rank` sends and receives as a leader on this edge; None if it leads no lane."""
        src, dst = self.source.lane_led_by(rank), self.destination.lane_led_by(rank)
        if src is None and dst is None:
            return None
        sends = () if src is None else self.transfers.of_source(src)
        receives = () if dst is None else self.transfers.of_destination(dst)
        return EdgeTransfers(self.src, self.dst, sends, receives)


def connect(
    edges: tuple[tuple[str, str], ...], modules: dict[str, ModulePlan], batch: Batch, dtype: str, per_node: int | None
) -> tuple[Edge, ...]:
    """The edges of a placed DAG, in the order given."""
    return tuple(
        join(
            modules[src],
            modules[dst],
            batch.micro_size,
            EdgeSizes(bytes_per_sample(modules[src], modules[dst], batch.seq_length, dtype), per_node),
        )
        for src, dst in edges
    )


def join(source: ModulePlan, destination: ModulePlan, micro_size: int, sizes: EdgeSizes) -> Edge:
    """The edge between two placed modules."""
    ends = Boundary(source.grid, True), Boundary(destination.grid, False)
    return Edge(source.name, destination.name, *ends, micro_size, sizes)


def bytes_per_sample(source: ModulePlan, destination: ModulePlan, seq_length: int, dtype: str) -> int | None:
    """Bytes of one sample's tensor on an edge; None if no model gives its width.

    Args:
        source: the module that hands the tensor on, already projected if it feeds language.
        destination: the module that takes it.
        seq_length: tokens of a sample in the language module.
        dtype: the tensor's dtype, a key of BYTES_OF.
    """
    hidden = width_of(source, destination)
    return None if hidden is None else tokens_handed_on(source, seq_length) * hidden * BYTES_OF[dtype]


def tokens_handed_on(module: ModulePlan, seq_length: int) -> int:
    """Tokens that a module hands on per sample: `tokens_per_sample`, or those of one image or clip if that varies.

    A module whose model does not say what it makes of an item hands on seq_length tokens, as language does.
    """
    return module.output.tokens_per_sample or tokens_per_item(module.model) or seq_length


def tokens_per_item(model: Model | None) -> int | None:
    """Tokens that an encoder makes of one image or one full spectrogram; None if its model does not say.

    A vision encoder drops its class token, and an audio encoder's convolutions halve the number of frames, rounding up.
    """
    if model is None or model.family == "gpt":
        return None
    if model.family == "vit":
        return ((model.image_size or 1) // (model.patch_size or 1)) ** 2
    return -(-(model.max_positions or 1) // 2)


def width_of(source: ModulePlan, destination: ModulePlan) -> int | None:
    """Hidden size of the tensor on an edge; None if the spec gives no model."""
    owner = destination if destination.is_language else source
    return owner.model.hidden_size if owner.model else None
