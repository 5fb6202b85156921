"""The plan: an immutable value that answers every question about a layout, for all ranks or for one.

It stores the spec with every choice made (sizes, offsets, lanes, layers); everything else is computed from that on
demand. Comparing, hashing and pickling a plan therefore cost as much at a million ranks as at 8.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import attrs

from .base.axes import Axis
from .base.errors import Fault, Source
from .base.frozen import frozen
from .base.frozenmap import FrozenMap
from .document import digest_of, dumps, resolved_spec
from .layout.batch import BatchContract
from .layout.batch_keys import data_needs
from .layout.bridges import Edge, connect
from .layout.communicators import communicators, num_communicators
from .layout.dag import Edges, reached_from
from .layout.graph import edge_attributes, module_attributes
from .layout.groups import Family, ModuleFamilies, families
from .layout.ir import (
    Bridge,
    Direction,
    Group,
    GroupKind,
    Groups,
    Message,
    ModuleLayout,
    ModulePlan,
    ModuleStageInfo,
    RankRole,
    RankView,
    StageView,
    Traffic,
    Transfer,
    layout_of,
)
from .layout.messages import messages_of, traffic_of
from .layout.stage_order import Pipeline, pipeline_of
from .spec.sections import MIMO_LANGUAGE_MODULE_KEY, Batch, Cluster, Training
from .spec.spec import Spec

if TYPE_CHECKING:
    import networkx


@frozen(kw_only=True)
class Plan:
    """A compiled layout. `compile_spec` and `Plan.from_json` make plans, and every plan that they make is valid.

    Attributes:
        modules: the modules, in the order of the spec.
        edges: the edges of the DAG as (source, destination) pairs, in topology order.
        batch_sizes: the spec's batch.
        training: the spec's training settings.
        cluster: the spec's cluster with the number of nodes that the world fills; None if that is not whole.
        warnings: what the passes warn of. Not part of a comparison.
        source: the places of the spec's keys, for what is found later; None if no file says them. Not compared either.
    """

    modules: tuple[ModulePlan, ...]
    edges: Edges
    batch_sizes: Batch
    training: Training
    cluster: Cluster | None
    warnings: tuple[Fault, ...] = attrs.field(default=(), eq=False)
    source: Source | None = attrs.field(default=None, eq=False, repr=False)

    # ---- the whole plan

    @cached_property
    def world_size(self) -> int:
        """Number of ranks."""
        return max(module.grid.end for module in self.modules)

    @cached_property
    def layout(self) -> ModuleLayout:
        """How the modules share ranks."""
        return layout_of({module.name: module.grid for module in self.modules})

    @cached_property
    def digest(self) -> str:
        """The sha256 of the canonical JSON, in hex: equal digests mean equal plans, and equal plans equal digests."""
        return digest_of(self)

    @cached_property
    def batch(self) -> BatchContract:
        """Which lane holds which samples of a microbatch."""
        sizes = self.batch_sizes
        grids = FrozenMap((module.name, module.grid) for module in self.modules)
        return BatchContract(sizes.global_size, sizes.micro_size, sizes.seq_length, grids)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The pipeline that runs: its number of stages, and the position of every module's stages in it."""
        return pipeline_of({module.name: module for module in self.modules}, self.edges)

    @property
    def total_stages(self) -> int:
        """The former name of `pipeline.num_stages`, kept for one release."""
        warnings.warn("Plan.total_stages is now Plan.pipeline.num_stages", DeprecationWarning, stacklevel=2)
        return self.pipeline.num_stages

    @property
    def gpus_per_node(self) -> int | None:
        """GPUs (ranks) per node; None if the spec does not say."""
        return self.cluster.gpus_per_node if self.cluster else None

    @property
    def gpu(self) -> str | None:
        """The name of the GPU in the spec's cluster; None if there is none."""
        return self.cluster.gpu if self.cluster else None

    @property
    def num_nodes(self) -> int | None:
        """Number of nodes in use, the last one perhaps only in part; None if gpus_per_node is not known."""
        return -(-self.world_size // self.gpus_per_node) if self.gpus_per_node else None

    def module(self, name: str) -> ModulePlan:
        """The module of this name. Raises KeyError."""
        for module in self.modules:
            if module.name == name:
                return module
        raise KeyError(f"no module {name!r}; the plan has {', '.join(module.name for module in self.modules)}")

    # ---- groups

    @cached_property
    def families(self) -> tuple[Family, ...]:
        """All groups by owner and kind, in creation order."""
        return families(self.modules, self._edges)

    @cached_property
    def num_groups(self) -> int:
        """Number of groups in the whole plan."""
        return sum(len(family) for family in self.families)

    @cached_property
    def num_communicators(self) -> int:
        """Number of communicators of two or more ranks that all ranks open together; see layout/communicators.py."""
        return num_communicators(self.families, self.modules)

    def communicators(self, view: RankView) -> tuple[int, ...]:
        """For each group of a view, the creation index of the group that opens its communicator. Equals share."""
        return communicators(view.groups, self.modules)

    def groups(self, owner: str, kind: GroupKind | str) -> Groups:
        """All groups of a kind, in enumeration order, as a sequence of tuples of ranks.

        Args:
            owner: a module, or `src->dst` for the kinds of a bridge.
            kind: the kind of group.

        Raises:
            KeyError: there is no such owner, or it has no groups of this kind.
        """
        families = self.families_by_owner.get(owner, ())
        for family in families:
            if family.kind == kind:
                return Groups(family.sets)
        kinds, owners = ", ".join(family.kind for family in families), ", ".join(self.families_by_owner)
        raise KeyError(f"{owner} has the kinds {kinds}, not {kind}" if kinds else f"no {owner!r}; there are {owners}")

    @cached_property
    def families_by_owner(self) -> dict[str, tuple[Family, ...]]:
        """The families of each module and each edge, in creation order."""
        found: dict[str, list[Family]] = {module.name: [] for module in self.modules}
        for family in self.families:
            found.setdefault(family.owner, []).append(family)
        return {owner: tuple(families) for owner, families in found.items()}

    def creation_order(self) -> Iterator[Group]:
        """Every group of the plan in the one global order."""
        for family in self.families:
            yield from family

    # ---- bridges

    @cached_property
    def bridges(self) -> tuple[Bridge, ...]:
        """The bridges of all edges, in topology order."""
        return tuple(edge.bridge() for edge in self._edges)

    def bridge(self, src: str, dst: str) -> Bridge:
        """The bridge of an edge. Raises KeyError."""
        if (src, dst) not in self._index_of_edge:
            edges = ", ".join(bridge.name for bridge in self.bridges) or "none"
            raise KeyError(f"no edge {src}->{dst}; the plan has {edges}")
        return self.bridges[self._index_of_edge[src, dst]]

    def traffic(self, src: str, dst: str, rank: int, direction: Direction | str) -> Traffic:
        """The messages that a rank sends and receives over an edge. Raises KeyError if there is no such edge."""
        self.bridge(src, dst)
        return traffic_of(self._edges[self._index_of_edge[src, dst]], rank, Direction(direction))

    def messages(self, src: str, dst: str, transfer: Transfer, direction: Direction | str) -> tuple[Message, ...]:
        """All messages that move one transfer of an edge. Raises KeyError if there is no such edge."""
        self.bridge(src, dst)
        return tuple(messages_of(self._edges[self._index_of_edge[src, dst]], transfer, Direction(direction)))

    def bytes_per_sample(self, src: str, dst: str) -> int | None:
        """Bytes of one sample's tensor on an edge; None if no model says how wide it is. Raises KeyError."""
        self.bridge(src, dst)
        return self._edges[self._index_of_edge[src, dst]].sizes.bytes_per_sample

    def graph(self) -> networkx.DiGraph[str]:
        """The modules and edges as a networkx graph, for those who analyse or draw plans.

        Nodes are the names of modules. What nodes and edges carry as attributes stands in `planner.layout.graph`; the
        graph itself carries world_size, layout, digest, global_size, micro_size, num_microbatches and seq_length. Each
        value is a number, a word or a boolean.
        """
        import networkx  # noqa: PLC0415  its import takes longer than planning

        sizes, samples = self.batch_sizes, self.batch.samples_per_lane
        graph: networkx.DiGraph[str] = networkx.DiGraph(
            world_size=self.world_size,
            layout=self.layout.value,
            digest=self.digest,
            global_size=sizes.global_size,
            micro_size=sizes.micro_size,
            num_microbatches=self.batch.num_microbatches,
            seq_length=sizes.seq_length,
        )
        for module in self.modules:
            graph.add_node(module.name, **module_attributes(module, samples[module.name]))
        for edge in self._edges:
            graph.add_edge(edge.src, edge.dst, **edge_attributes(edge))
        return graph

    # ---- one rank

    def check_rank(self, rank: int) -> None:
        """Raise ValueError for a rank outside the world."""
        if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is outside the world of {self.world_size} ranks (0-{self.world_size - 1})")

    def role(self, rank: int) -> RankRole:
        """The modules and stages that a rank takes part in. Raises ValueError for a rank outside the world."""
        stages = ((module.name, self._stage_info(module, rank)) for module in self._modules_of(rank))
        return RankRole(FrozenMap(stages), self.layout)

    def view(self, rank: int) -> RankView:
        """All that one rank needs. Raises ValueError for a rank outside the world."""
        modules = self._modules_of(rank)
        edges = self._edges_touching(modules)
        coords, groups, infos, stages, data, slices = {}, [], {}, {}, {}, {}
        for module in modules:
            name, grid = module.name, module.grid
            dense, expert = grid.dense.coords_in_order(rank), grid.expert.coords_in_order(rank)
            groups += self._families_of(name).groups_of(rank, dense, expert)
            at = dict(zip(grid.axes, dense + expert, strict=True))
            coords[name] = FrozenMap(at)
            stage = at[Axis.PP]
            infos[name] = info = _stage_info(stage, grid.num_stages)
            stages[name] = self._stage_view(module, stage)
            data[name] = data_needs(
                module.is_language, name in self._after_language, info.is_first_stage, info.is_last_stage
            )
            slices[name] = self.batch.lane_slice(grid, at[Axis.DP])
        for edge in edges:
            for family in self.families_by_owner[edge.name]:
                groups += family.groups_of(rank)
        per_node = self.gpus_per_node
        return RankView(
            rank=rank,
            role=RankRole(infos, self.layout),
            coords=FrozenMap(coords),
            groups=tuple(groups),
            transfers=tuple(filter(None, (edge.transfers_of(rank) for edge in edges))),
            stages=FrozenMap(stages),
            position=self.pipeline.position({name: view.stage for name, view in stages.items()}),
            total_stages=self.pipeline.num_stages,
            data=FrozenMap(data),
            batch_slices=FrozenMap(slices),
            node=rank // per_node if per_node else None,
            local_rank=rank % per_node if per_node else None,
        )

    # ---- documents

    def to_json(self) -> str:
        """The plan as JSON text, lossless."""
        return dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote. Raises PlanError if the text is no plan, or was edited."""
        from .plan_file import loads  # noqa: PLC0415  reading compiles, and the compiler makes plans

        return loads(text)

    def to_spec(self) -> Spec:
        """The spec with every choice made; compiling it gives this plan again."""
        return resolved_spec(self)

    # ---- derived tables, each of the size of the DAG

    @cached_property
    def _edges(self) -> tuple[Edge, ...]:
        modules = {module.name: module for module in self.modules}
        return connect(self.edges, modules, self.batch_sizes, self.training.dtype, self.gpus_per_node)

    @cached_property
    def _index_of_edge(self) -> dict[tuple[str, str], int]:
        return {edge: index for index, edge in enumerate(self.edges)}

    @cached_property
    def _after_language(self) -> frozenset[str]:
        return frozenset(reached_from(MIMO_LANGUAGE_MODULE_KEY, self.edges) - {MIMO_LANGUAGE_MODULE_KEY})

    @cached_property
    def _prepared(self) -> dict[str, ModuleFamilies]:
        return {}  # filled by _families_of

    def _families_of(self, module: str) -> ModuleFamilies:
        """A module's families, prepared when they are first asked for: a rank asks for those of its own modules."""
        found = self._prepared.get(module)
        if found is None:
            found = self._prepared[module] = ModuleFamilies.of(module, self.families_by_owner[module])
        return found

    @cached_property
    def _ends(self) -> tuple[frozenset[str], frozenset[str]]:
        """(modules without incoming edges, modules without outgoing edges)."""
        names = frozenset(module.name for module in self.modules)
        return names - {dst for _, dst in self.edges}, names - {src for src, _ in self.edges}

    def _modules_of(self, rank: int) -> list[ModulePlan]:
        self.check_rank(rank)
        return [module for module in self.modules if rank in module.grid]

    def _edges_touching(self, modules: list[ModulePlan]) -> tuple[Edge, ...]:
        """The edges that start or end at one of the modules, in topology order."""
        if len(modules) == 1:
            return self._edges_by_module[modules[0].name]
        names = {module.name for module in modules}
        return tuple(edge for edge in self._edges if edge.src in names or edge.dst in names)

    @cached_property
    def _edges_by_module(self) -> dict[str, tuple[Edge, ...]]:
        found: dict[str, list[Edge]] = {module.name: [] for module in self.modules}
        for edge in self._edges:
            found[edge.src].append(edge)
            found[edge.dst].append(edge)
        return {name: tuple(edges) for name, edges in found.items()}

    def _stage_info(self, module: ModulePlan, rank: int) -> ModuleStageInfo:
        return _stage_info(module.grid.coord(rank, Axis.PP), module.num_stages)

    def _stage_view(self, module: ModulePlan, stage: int) -> StageView:
        sources, sinks = self._ends
        is_first = stage == 0 and module.name in sources
        is_last = stage == module.num_stages - 1 and module.name in sinks
        return StageView(stage, module.num_stages, is_first, is_last)


def _stage_info(stage: int, num_stages: int) -> ModuleStageInfo:
    return ModuleStageInfo(stage == 0, stage == num_stages - 1)
