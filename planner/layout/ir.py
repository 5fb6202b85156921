"""The data that a plan stores, and the values that it hands out. Frozen, slotted, hashable and picklable.

What is stored depends only on the number of modules and edges. Groups, transfers and broadcast groups are lazy
sequences that compute their items from coords.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, StrEnum
from functools import cached_property
from itertools import chain, pairwise
from math import prod
from typing import Protocol, overload

import attrs

from ..base.axes import Axis, format_order
from ..base.frozen import frozen
from ..base.frozenmap import FrozenMap
from ..spec.sections import MIMO_LANGUAGE_MODULE_KEY, Freeze, Model, Output
from .coords import AxisView, Box, Translates, dense_view, expert_view

# ---- modules


@frozen(kw_only=True)
class Grid:
    """A module's ranks as a box of axes, starting at `rank_offset`.

    Attributes:
        rank_offset: first rank.
        order: the dense axes, the fastest first.
        sizes: the size of each axis in `order`.
        expt_tp, ep: sizes of the expert view; expt_dp follows from them.
    """

    rank_offset: int
    order: tuple[Axis, ...]
    sizes: tuple[int, ...]
    expt_tp: int = 1
    ep: int = 1

    @cached_property
    def size(self) -> int:
        """Number of ranks."""
        return prod(self.sizes)

    @cached_property
    def end(self) -> int:
        """The rank after the last."""
        return self.rank_offset + self.size

    @property
    def ranks(self) -> range:
        """The grid's ranks, ascending."""
        return range(self.rank_offset, self.end)

    @cached_property
    def dense(self) -> AxisView:
        """The view over tp, cp, dp and pp."""
        return dense_view(self.rank_offset, self.sizes, self.order)

    @cached_property
    def expert(self) -> AxisView:
        """The view over expt_tp, ep, expt_dp and pp."""
        return expert_view(self.dense, self.expt_tp, self.ep)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The axes of both views, the dense one's first. pp comes twice, with equal coords."""
        return self.dense.names + self.expert.names

    def size_of(self, axis: Axis) -> int:
        """Size of any axis of either view."""
        if axis in self.order:
            return self.sizes[self.order.index(axis)]
        return dict(self.expert.axes)[axis]

    @cached_property
    def num_lanes(self) -> int:
        """Number of lanes (data-parallel replicas)."""
        return self.size_of(Axis.DP)

    @cached_property
    def num_stages(self) -> int:
        """Number of pipeline stages."""
        return self.size_of(Axis.PP)

    def coord(self, rank: int, axis: Axis) -> int:
        """The coord of one of the grid's ranks on an axis of either view."""
        view = self.dense if axis in self.order else self.expert
        return view.coords(rank)[axis]

    def __contains__(self, rank: int) -> bool:
        return self.rank_offset <= rank < self.end

    def overlaps(self, other: Grid) -> bool:
        """Whether the two grids share ranks."""
        return self.rank_offset < other.end and other.rank_offset < self.end

    def __str__(self) -> str:
        sizes = ", ".join(f"{axis} {size}" for axis, size in zip(self.order, self.sizes, strict=True) if size > 1)
        ranks = f"ranks {self.rank_offset}-{self.end - 1}" if self.size > 1 else f"rank {self.rank_offset}"
        return f"{ranks} ({sizes}; {format_order(self.order)})" if sizes else ranks


@frozen(kw_only=True)
class ModulePlan:
    """One module of a plan, with every choice made.

    Attributes:
        name: the module's name.
        grid: its ranks and axes.
        model: its model with every size filled in; None if the spec gives none.
        output: the form of the tensor that it hands on; `tensor_dims` is never None here.
        special_token_id: the id in input_ids that marks where its output goes.
        freeze: the parts that are not trained.
        recompute: what is computed again in the backward pass: `none`, `selective` or `full`.
        stages: number of layers in each stage; None without a model.
        sequence_parallel: whether activations are split along the sequence between the layers.
    """

    name: str
    grid: Grid
    model: Model | None
    output: Output
    special_token_id: int | None
    freeze: Freeze
    recompute: str
    stages: tuple[int, ...] | None
    sequence_parallel: bool

    @property
    def ranks(self) -> range:
        """The module's ranks, ascending."""
        return self.grid.ranks

    @property
    def num_stages(self) -> int:
        """Number of pipeline stages."""
        return self.grid.num_stages

    @property
    def is_language(self) -> bool:
        """Whether this is the language module."""
        return self.name == MIMO_LANGUAGE_MODULE_KEY


# ---- roles; names and properties as in megatron-core 0.19, models/mimo/config/role.py


class ModuleLayout(Enum):
    """How the modules share ranks. megatron-core has the first two and calls MIXED non-colocated."""

    COLOCATED = "colocated"  # every module on the same ranks
    NON_COLOCATED = "non_colocated"  # every module disjoint from language
    MIXED = "mixed"  # anything else


def layout_of(grids: Mapping[str, Grid]) -> ModuleLayout:
    """The layout that these grids form."""
    language = grids[MIMO_LANGUAGE_MODULE_KEY]
    others = [grid for name, grid in grids.items() if name != MIMO_LANGUAGE_MODULE_KEY]
    if all(grid.ranks == language.ranks for grid in others):
        return ModuleLayout.COLOCATED
    if not any(grid.overlaps(language) for grid in others):
        return ModuleLayout.NON_COLOCATED
    return ModuleLayout.MIXED


@frozen
class ModuleStageInfo:
    """Whether a rank is in the first, and in the last, stage of one module."""

    is_first_stage: bool
    is_last_stage: bool


def _frozen(modules: Mapping[str, ModuleStageInfo]) -> FrozenMap[str, ModuleStageInfo]:
    return modules if isinstance(modules, FrozenMap) else FrozenMap(modules)


class HasRoles(Protocol):
    """What `RankRole.build` needs of a plan; the class itself lives above this file."""

    def role(self, rank: int) -> RankRole: ...


@frozen
class RankRole:
    """The modules that a rank takes part in, and its stages in them. Names and properties are megatron-core's."""

    modules: FrozenMap[str, ModuleStageInfo] = attrs.field(default=FrozenMap(), converter=_frozen)
    mode: ModuleLayout = ModuleLayout.COLOCATED

    @classmethod
    def build(cls, plan: HasRoles, rank: int) -> RankRole:
        """`plan.role(rank)`, under the name that megatron-core users know."""
        return plan.role(rank)

    @property
    def has_modality_modules(self) -> bool:
        """Whether the rank is in any module other than language."""
        return any(name != MIMO_LANGUAGE_MODULE_KEY for name in self.modules)

    @property
    def has_language_module(self) -> bool:
        """Whether the rank is in the language module."""
        return MIMO_LANGUAGE_MODULE_KEY in self.modules

    @property
    def modality_module_names(self) -> list[str]:
        """The rank's modules other than language, in plan order."""
        return [name for name in self.modules if name != MIMO_LANGUAGE_MODULE_KEY]

    def is_first_stage(self, module_name: str) -> bool:
        """Whether the rank is in the module's first stage; False if it is not in the module."""
        return module_name in self.modules and self.modules[module_name].is_first_stage

    def is_last_stage(self, module_name: str) -> bool:
        """Whether the rank is in the module's last stage; False if it is not in the module."""
        return module_name in self.modules and self.modules[module_name].is_last_stage


# ---- groups


class GroupKind(StrEnum):
    """The kinds of groups, in creation order, named as in megatron-core's ProcessGroupCollection."""

    TP = "tp"
    CP = "cp"
    PP = "pp"
    DP = "dp"
    DP_CP = "dp_cp"
    TP_CP = "tp_cp"
    TP_DP_CP = "tp_dp_cp"
    MP = "mp"
    INTRA_DIST_OPT = "intra_dist_opt"
    EP = "ep"
    EXPT_TP = "expt_tp"
    EXPT_DP = "expt_dp"
    TP_EP = "tp_ep"
    TP_EP_PP = "tp_ep_pp"
    EMBD = "embd"
    POS_EMBD = "pos_embd"
    BRIDGE_SRC = "bridge_src"
    BRIDGE_DST = "bridge_dst"
    BRIDGE_P2P = "bridge_p2p"
    BRIDGE_GATHER = "bridge_gather"

    @property
    def is_bridge(self) -> bool:
        """Whether groups of this kind belong to an edge, not to a module."""
        return self in (GroupKind.BRIDGE_SRC, GroupKind.BRIDGE_DST, GroupKind.BRIDGE_P2P, GroupKind.BRIDGE_GATHER)


class RankSets(Protocol):
    """Sets of ranks that can be found by index, or by a rank that they hold, without listing all of them."""

    def __len__(self) -> int: ...
    def boxes(self, index: int) -> Sequence[Box]:
        """The boxes whose union is set `index`."""

    def translates(self) -> Translates | None:
        """The dims and the ascending starts, if every set is the same box from another start; else None."""

    def indices(self, rank: int) -> tuple[int, ...]:
        """The indices of the sets that hold `rank`, ascending. `rank` is any rank of the modules concerned."""


def ranks_of(boxes: Sequence[Box]) -> tuple[int, ...]:
    """The union of some boxes, ascending."""
    return tuple(boxes[0]) if len(boxes) == 1 else tuple(sorted(set(chain(*boxes))))


def num_ranks_of(boxes: Sequence[Box]) -> int:
    """The number of ranks in the union of some boxes. Boxes that may overlap are marked in one byte a rank."""
    if len(boxes) == 1:
        return len(boxes[0])
    ends = sorted((box[0], box[-1]) for box in boxes)
    if all(end < start for (_, end), (start, _) in pairwise(ends)):
        return sum(map(len, boxes))
    first = ends[0][0]
    marks = bytearray(max(end for _, end in ends) - first + 1)
    for box in boxes:
        longest = max(box.dims, default=(1, 1))
        size, stride = longest
        for start in Box(box.start - first, tuple(dim for dim in box.dims if dim != longest)):
            marks[start : start + (size - 1) * stride + 1 : stride] = b"\1" * size
    return sum(marks)


@frozen
class Groups(Sequence[tuple[int, ...]]):
    """The groups of one kind as tuples of ranks, computed on demand. Equal to the same tuple of tuples."""

    sets: RankSets

    def __len__(self) -> int:
        return len(self.sets)

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, ...], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"group {index} of {len(self)}")
        return ranks_of(self.sets.boxes(at))

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        translates = self.sets.translates()
        if translates is None:
            return (ranks_of(self.sets.boxes(index)) for index in range(len(self)))
        dims, starts = translates
        if not dims:
            return zip(starts)
        if len(dims) == 1:
            ((size, stride),) = dims
            return (tuple(range(start, start + size * stride, stride)) for start in starts)
        offsets = tuple(Box(0, dims))
        return (tuple([start + offset for offset in offsets]) for start in starts)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Groups) and self.sets == other.sets:
            return True
        return isinstance(other, Groups | tuple | list) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self[:4])) + (", ..." if len(self) > 4 else "")
        return f"Groups({len(self)}: {shown})"


@frozen
class Group:
    """One group: an ordered tuple of ranks with a kind.

    Attributes:
        owner: the module's name, or `src->dst` for a bridge.
        kind: the kind of group.
        index: its index among the owner's groups of that kind.
        creation_index: its index in the plan's creation order.
        boxes: the ranks in compact form.
    """

    owner: str
    kind: GroupKind
    index: int
    creation_index: int
    boxes: Sequence[Box]

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """Global ranks in group order, listed on the first access."""
        return ranks_of(self.boxes)

    @property
    def num_ranks(self) -> int:
        """Number of ranks, which are not listed."""
        return num_ranks_of(self.boxes)

    @property
    def position(self) -> int:
        """The former name of `creation_index`, kept for one release."""
        warnings.warn("Group.position is now Group.creation_index", DeprecationWarning, stacklevel=2)
        return self.creation_index


# ---- bridges


class Strategy(StrEnum):
    """How the bytes of an edge move; strategy.py has the rule. Transfers name leaders under every strategy."""

    LEADER = "leader"  # leader to leader, then broadcast inside the destination lane
    SLICES = "slices"  # every rank sends its slice, then the destination lane gathers
    GATHER = "gather"  # source and destination share ranks: straight to every rank, inside bridge_gather groups


@frozen
class Transfer:
    """The samples of a microbatch that one source lane hands to one destination lane.

    Attributes:
        src_lane, dst_lane: the lanes' dp coords.
        src_rank, dst_rank: the lanes' leaders.
        src_start, dst_start: offsets of the first sample inside the two lanes' blocks.
        num_samples: number of samples.
    """

    src_lane: int
    dst_lane: int
    src_rank: int
    dst_rank: int
    src_start: int
    dst_start: int
    num_samples: int


class Direction(StrEnum):
    """The two ways over an edge."""

    FORWARD = "forward"  # from source to destination
    BACKWARD = "backward"  # from destination to source

    @property
    def tensors(self) -> str:
        """What moves that way, in words."""
        return "activations" if self is Direction.FORWARD else "gradients"


@frozen
class Message:
    """What one rank sends to another: the elements [first / of, last / of) of a transfer.

    Attributes:
        transfer: the transfer that the message is a part of.
        sender, receiver: ranks; equal if the rank already holds the samples (gather only).
        first, last, of: the range of elements, as fractions first / of and last / of.
        leads: whether this is the transfer's first message to its receiver, which brings the sample boundaries if
            these vary.
    """

    transfer: Transfer
    sender: int
    receiver: int
    first: int = 0
    last: int = 1
    of: int = 1
    leads: bool = True

    def elements(self, total: int) -> slice:
        """The message's elements of a transfer of `total` elements. The last messages may be short or empty."""
        part = -(-total // self.of)
        return slice(min(self.first * part, total), min(self.last * part, total))


@frozen
class Traffic:
    """One rank's messages over one edge, in one direction."""

    sends: tuple[Message, ...]
    receives: tuple[Message, ...]


@frozen
class Bridge:
    """An edge of the DAG, compiled: who sends which samples to whom.

    Attributes:
        src, dst: the modules at its ends.
        strategy: how its bytes move.
        transfers: every transfer of a microbatch, by sample.
        src_broadcast, dst_broadcast: for each lane, the ranks of the boundary stage (the source's last, the
            destination's first), ascending.
    """

    src: str
    dst: str
    strategy: Strategy
    transfers: Sequence[Transfer]
    src_broadcast: Groups
    dst_broadcast: Groups

    @property
    def name(self) -> str:
        """`src->dst`, also the owner of the bridge's groups."""
        return edge_name(self.src, self.dst)


def edge_name(src: str, dst: str) -> str:
    """The name of an edge, also the owner of its groups."""
    return f"{src}->{dst}"


# ---- one rank's view


@frozen
class StageView:
    """A rank's stage in one module, and whether it begins or ends the whole model.

    Attributes:
        stage: the stage's index, from 0.
        num_stages: number of stages of the module.
        is_model_first: whether it is the first stage of a module without incoming edges.
        is_model_last: whether it is the last stage of a module without outgoing edges.
    """

    stage: int
    num_stages: int
    is_model_first: bool
    is_model_last: bool


@frozen
class EdgeTransfers:
    """The transfers of one edge that a rank sends or receives as a lane's leader."""

    src: str
    dst: str
    sends: Sequence[Transfer]
    receives: Sequence[Transfer]


@frozen(kw_only=True)
class RankView:
    """All that one rank needs from the plan.

    Attributes:
        rank: the global rank.
        role: the modules that it takes part in.
        coords: for each module, the rank's coord on every axis of both views.
        groups: every group that holds the rank, in creation order.
        transfers: for each edge, what the rank sends and receives as a lane's leader.
        stages: for each module, the rank's stage.
        position: the rank's position in the pipeline that runs, from 0.
        total_stages: number of stages in that pipeline.
        data: for each module, the batch keys that the rank must be fed.
        batch_slices: for each module, the samples of the microbatch that the rank's lane holds.
        node, local_rank: the rank's node and its index there; None if the cluster's gpus_per_node is not known.
    """

    rank: int
    role: RankRole
    coords: FrozenMap[str, FrozenMap[Axis, int]]
    groups: tuple[Group, ...]
    transfers: tuple[EdgeTransfers, ...]
    stages: FrozenMap[str, StageView]
    position: int
    total_stages: int
    data: FrozenMap[str, tuple[str, ...]]
    batch_slices: FrozenMap[str, slice]
    node: int | None
    local_rank: int | None

    @property
    def num_warmup_microbatches(self) -> int:
        """Forward passes before the first forward-backward pair in 1F1B, if there are enough microbatches."""
        return self.total_stages - self.position - 1

    @property
    def broadcast_groups(self) -> tuple[Group, ...]:
        """The rank's bridge groups that lie inside one lane."""
        return tuple(group for group in self.groups if group.kind in (GroupKind.BRIDGE_SRC, GroupKind.BRIDGE_DST))

    def group(self, owner: str, kind: GroupKind | str) -> Group:
        """The rank's group of a kind; the first, if it has two `bridge_gather` groups. Raises KeyError."""
        for group in self.groups:
            if group.owner == owner and group.kind == kind:
                return group
        raise KeyError(f"rank {self.rank} has no {kind} group of {owner}")
