"""The spec: everything that a person writes about one training run, and nothing that is derived from it.

YAML (loader.py) and Python build the same classes, and the same field types (fields.py) check both: an object that
exists has valid fields. Faults that concern several modules at once are found by the passes.

    Spec(
        batch=Batch(global_size=96, micro_size=4, seq_length=4096),
        modules={
            "language": Module(parallel=Parallel(tp=2, pp=2)),
            "images": Module(parallel={"tp": 2, "dp": 2}, special_token_id=32000),
        },
    )
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..base import codes
from ..base.errors import Faults, Path, Source
from ..base.frozen import frozen
from ..base.frozenmap import FrozenMap
from .fields import Array, Choice, FieldType, Integer, Name, Record, Table, field
from .sections import MAX_MODULES, MIMO_LANGUAGE_MODULE_KEY, Batch, Cluster, Module, Training


@frozen(kw_only=True)
class Spec:
    """Everything that a user writes about one training run. Raises PlanError if a value is not valid.

    `modules` and `topology` may be given as any mapping. They are stored as FrozenMap.
    """

    schema: int = field(Integer(1, 1), default=1, doc="version of this format")
    cluster: Cluster | None = field(
        Record(Cluster), default=None, doc="the machines; if left out, the world is the ranks that the modules cover"
    )
    batch: Batch = field(Record(Batch), doc="sizes of the batch")
    modules: Mapping[str, Module] = field(Table(Record(Module), MAX_MODULES), doc="the modules, by name")
    topology: Mapping[str, tuple[str, ...]] = field(
        Table(Array(Name(), MAX_MODULES)),
        default=FrozenMap(),
        doc="for each module, the modules that it feeds; a module that is not mentioned feeds language",
    )
    placement: str | None = field(
        Choice(("disjoint", "colocated")),
        default=None,
        doc="whether modules are disjoint or colocated, if none has a rank_offset; disjoint if left out",
    )
    training: Training = field(Record(Training), default=Training(), doc="training settings")
    source: Source | None = attrs.field(default=None, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        faults = Faults()
        _check_language(self.modules, faults)
        faults.raise_errors()

    def to_yaml(self, written: Spec | None = None) -> str:
        """The spec as YAML text, without what is left at its default. `parse_spec` reads an equal spec from it.

        Args:
            written: what a user wrote, of which this is the spec with every choice made (`Plan.to_spec`). A comment on
                each line then names the keys that were chosen.
        """
        from .writer import commented, spec_yaml  # noqa: PLC0415  imports PyYAML's writer

        text = spec_yaml(SPEC_TYPE, self)
        return text if written is None else commented(text, SPEC_TYPE, self, written)

    @classmethod
    def from_parallelism(
        cls,
        module_parallelisms: Mapping[str, Any],
        *,
        global_batch_size: int,
        micro_batch_size: int,
        seq_length: int,
        llm_module_name: str = MIMO_LANGUAGE_MODULE_KEY,
        deployment_mode: str | None = None,
        special_token_ids: Mapping[str, int] | None = None,
        topology: Mapping[str, Sequence[str]] | None = None,
        **rest: Any,
    ) -> Spec:
        """The same as the function `from_parallelism`."""
        return from_parallelism(
            module_parallelisms,
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            seq_length=seq_length,
            llm_module_name=llm_module_name,
            deployment_mode=deployment_mode,
            special_token_ids=special_token_ids,
            topology=topology,
            **rest,
        )


def from_parallelism(
    module_parallelisms: Mapping[str, Any],
    *,
    global_batch_size: int,
    micro_batch_size: int,
    seq_length: int,
    llm_module_name: str = MIMO_LANGUAGE_MODULE_KEY,
    deployment_mode: str | None = None,
    special_token_ids: Mapping[str, int] | None = None,
    topology: Mapping[str, Sequence[str]] | None = None,
    **rest: Any,
) -> Spec:
    """The spec of a Megatron-Bridge configuration.

    Args:
        module_parallelisms: the sizes of each module, as an object or a mapping with Megatron-Bridge's names, old or
            new. In the homogeneous mode one module may give the sizes for all; the others are then None.
        global_batch_size: samples per step.
        micro_batch_size: samples per microbatch of the whole model (Megatron-Bridge's convention).
        seq_length: tokens per sample in the language module.
        llm_module_name: name of the module that becomes `language`.
        deployment_mode: `colocated` (every module on all ranks), `homogeneous` (the same, with one set of sizes for
            all modules) or `heterogeneous` (each module on ranks of its own: by rank_offset, or one after another if
            no rank_offset differs from 0). If left out, rank offsets decide; without any, the spec's `placement`
            decides.
        special_token_ids: for each module, the id that marks its output in input_ids.
        topology: for each module, the modules that it feeds.
        rest: further fields of Spec, such as cluster or training.

    Raises:
        PlanError: with every fault found.
    """
    from .megatron_bridge import fields_from_parallelism  # noqa: PLC0415  only its users load the adapter

    fields = fields_from_parallelism(
        module_parallelisms,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        seq_length=seq_length,
        llm_module_name=llm_module_name,
        deployment_mode=deployment_mode,
        special_token_ids=special_token_ids,
        topology=topology,
    )
    return Spec(**fields, **rest)


def _check_language(modules: Mapping[str, Module], faults: Faults) -> None:
    """Check what depends on whether a module is the language module."""
    for name, module in modules.items():
        path: Path = ("modules", name)
        if name == MIMO_LANGUAGE_MODULE_KEY:
            if module.freeze.encoder != module.freeze.projection:
                rule = "language has no encoder and projection of its own to freeze apart"
                faults.add(codes.CONFLICT, (*path, "freeze"), rule, "write `freeze: true` or remove it")
            if module.special_token_id is not None:
                rule = "special_token_id marks where another module's output goes; language receives them"
                faults.add(codes.CONFLICT, (*path, "special_token_id"), rule, "move it to the encoder")
        for axis in ("ep", "expt_tp"):
            size = getattr(module.parallel, axis, 1)
            if size > 1 and name != MIMO_LANGUAGE_MODULE_KEY:
                rule = f"{axis} = 1 outside language, got {size}"
                remedy = f"remove {axis} from {name}"
                faults.add(codes.EXPERTS_OUTSIDE_LANGUAGE, (*path, "parallel", axis), rule, remedy)


SPEC_TYPE: FieldType = Record(Spec)
