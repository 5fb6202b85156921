"""Law: Megatron-Bridge's configuration, in any of its spellings, gives the plan of the spec written directly."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner import Batch, Cluster, Fault, Module, ModuleLayout, Parallel, PlanError, Spec, Training
from planner.testing.strategies import divisors
from tests.strategies import planned

SIZES = {"global_batch_size": 96, "micro_batch_size": 12, "seq_length": 4096}
BATCH = Batch(global_size=96, micro_size=12, seq_length=4096)
NEW = {
    "tp": "tensor_model_parallel_size",
    "cp": "context_parallel_size",
    "pp": "pipeline_model_parallel_size",
    "dp": "data_parallel_size",
    "ep": "expert_model_parallel_size",
    "expt_tp": "expert_tensor_parallel_size",
}
OLD = {
    "tp": "tensor_parallel",
    "cp": "context_parallel",
    "pp": "pipeline_parallel",
    "dp": "data_parallel",
    "ep": "expert_parallel",
    "expt_tp": "expert_tensor_parallel",
}


class Config:
    """Stands for Megatron-Bridge's ModuleParallelismConfig: fields with defaults, and properties of its own."""

    tensor_model_parallel_size = 1
    context_parallel_size = 1
    pipeline_model_parallel_size = 1
    data_parallel_size: int | None = None
    expert_model_parallel_size = 1
    expert_tensor_parallel_size: int | None = 1
    rank_offset = 0

    def __init__(self, **sizes: Any) -> None:
        self.__dict__.update(sizes)

    @property
    def total_model_parallel_size(self) -> int:
        return self.tensor_model_parallel_size * self.pipeline_model_parallel_size

    def finalize(self) -> None:
        raise AssertionError("a configuration is read, never run")


def named(parallel: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in parallel.items()}


def spec_of(parallels: dict[str, Any], **rest: Any) -> Spec:
    return Spec.from_parallelism(parallels, **(SIZES | rest))


def direct(parallels: dict[str, Any], **rest: Any) -> Spec:
    return Spec(batch=BATCH, modules={name: Module(parallel=sizes) for name, sizes in parallels.items()}, **rest)


def check_same(spec: Spec, other: Spec, world_size: int | None = None) -> None:
    plan, expected = planned(spec, world_size), planned(other, world_size)
    assert plan == expected
    assert plan.digest == expected.digest


def faults_of(parallels: dict[str, Any], **rest: Any) -> tuple[Fault, ...]:
    with pytest.raises(PlanError) as caught:
        spec_of(parallels, **rest)
    assert all(fault.rule and fault.remedy and fault.mark is None for fault in caught.value.faults)
    return caught.value.faults


LAYOUT = {
    "language": {"tp": 2, "cp": 2, "pp": 2, "dp": 2, "ep": 4, "expt_tp": 2},
    "images": {"tp": 2, "dp": 3},
    "audio": {"dp": 4},
}
MAKERS = [
    pytest.param(lambda sizes: named(sizes, NEW), id="new names"),
    pytest.param(lambda sizes: named(sizes, OLD), id="older names"),
    pytest.param(lambda sizes: Config(**named(sizes, NEW)), id="objects"),
    pytest.param(lambda sizes: SimpleNamespace(**named(sizes, OLD)), id="older objects"),
    pytest.param(lambda sizes: named(sizes, OLD) | named(sizes, NEW), id="both names, equal"),
]


# ---- names


@pytest.mark.parametrize("make", MAKERS)
def test_every_spelling_gives_the_same_plan(make: Any) -> None:
    check_same(spec_of({name: make(sizes) for name, sizes in LAYOUT.items()}), direct(LAYOUT))
    placed = {
        "language": {**LAYOUT["language"], "rank_offset": 10},
        "images": {**LAYOUT["images"], "rank_offset": 0},
        "audio": {**LAYOUT["audio"], "rank_offset": 6},
    }
    check_same(spec_of({name: make(sizes) for name, sizes in placed.items()}), direct(placed))


def test_every_size_has_both_names() -> None:
    parallel = Parallel(tp=2, cp=2, pp=2, dp=2, ep=4, expt_tp=2)
    for names in (NEW, OLD):
        for axis in names:
            size = getattr(parallel, axis)
            assert spec_of({"language": {names[axis]: size}}).modules["language"].parallel == Parallel(**{axis: size})


def test_sizes_of_none_are_left_out() -> None:
    spec = spec_of(
        {"language": {"tensor_model_parallel_size": 2, "data_parallel_size": None}, "images": {"data_parallel": 4}}
    )
    check_same(spec, direct({"language": {"tp": 2}, "images": {"dp": 4}}), world_size=10)


def test_order_and_sequence_parallel_keep_their_names() -> None:
    sizes = {
        "tensor_model_parallel_size": 2,
        "data_parallel_size": 2,
        "order": "dp-tp-cp-pp",
        "sequence_parallel": True,
    }
    check_same(
        spec_of({"language": sizes}),
        direct({"language": {"tp": 2, "dp": 2, "order": "dp-tp-cp-pp", "sequence_parallel": True}}),
    )


def test_the_named_module_becomes_language() -> None:
    parallels = {"clip": {"data_parallel": 2}, "llm": {"tensor_parallel": 2}}
    spec = spec_of(parallels, llm_module_name="llm", special_token_ids={"clip": 7}, topology={"clip": ["llm"]})
    assert tuple(spec.modules) == ("clip", "language")
    expected = Spec(
        batch=BATCH,
        modules={"clip": Module(parallel={"dp": 2}, special_token_id=7), "language": Module(parallel={"tp": 2})},
        topology={"clip": ("language",)},
    )
    check_same(spec, expected)


def test_the_rest_goes_to_the_spec() -> None:
    spec = spec_of(
        {"language": {}},
        cluster=Cluster(nodes=1, gpus_per_node=4),
        training=Training(lr=0.5, distributed_optimizer=True),
    )
    check_same(
        spec,
        direct(
            {"language": {}},
            cluster=Cluster(nodes=1, gpus_per_node=4),
            training=Training(lr=0.5, distributed_optimizer=True),
        ),
    )
    assert planned(spec).world_size == 4


# ---- modes


@pytest.mark.parametrize("make", MAKERS)
def test_colocated_puts_every_module_on_all_ranks(make: Any) -> None:
    layout = {"language": {"tp": 4, "dp": 1}, "images": {"tp": 1, "dp": 4}, "audio": {"tp": 2, "dp": 2}}
    spec = spec_of({name: make(sizes) for name, sizes in layout.items()}, deployment_mode="colocated")
    check_same(spec, direct(layout, placement="colocated"))
    assert planned(spec).layout is ModuleLayout.COLOCATED


def test_colocated_modules_share_the_world_without_dp() -> None:
    layout = {"language": {"tp": 4}, "images": {"tp": 2}}
    spec = spec_of({name: Config(**named(sizes, NEW)) for name, sizes in layout.items()}, deployment_mode="colocated")
    check_same(spec, direct(layout, placement="colocated"), world_size=8)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("given_to", ["language", "images", "all"])
def test_homogeneous_is_one_set_of_sizes(make: Any, given_to: str) -> None:
    sizes = {"tp": 2, "dp": 3}
    names = ("images", "language", "audio")
    parallels = {name: make(sizes) if given_to in (name, "all") else None for name in names}
    spec = spec_of(parallels, deployment_mode="homogeneous")
    check_same(spec, direct(dict.fromkeys(names, sizes), placement="colocated"))


def test_homogeneous_without_any_sizes_is_one_lane_per_rank() -> None:
    spec = spec_of({"language": None, "images": None}, deployment_mode="homogeneous")
    check_same(spec, direct({"language": {}, "images": {}}, placement="colocated"), world_size=4)


def test_homogeneous_with_unequal_sizes_is_refused() -> None:
    parallels = {"language": named({"tp": 2, "dp": 2}, NEW), "images": named({"tp": 4}, OLD), "audio": None}
    (fault,) = faults_of(parallels, deployment_mode="homogeneous")
    assert fault.code.name == "P006"
    assert fault.path == ("module_parallelisms",)
    assert "language tp 2" in fault.rule
    assert "images tp 4" in fault.rule
    assert "audio" not in fault.rule


def test_homogeneous_modules_share_expert_sizes_only_with_language() -> None:
    """All modules have one set of sizes, but those of experts concern language alone, which has the experts."""
    sizes = named({"tp": 2, "dp": 2, "ep": 2}, NEW)
    spec = spec_of({"language": sizes, "images": sizes}, deployment_mode="homogeneous")
    expected = {"language": {"tp": 2, "dp": 2, "ep": 2}, "images": {"tp": 2, "dp": 2}}
    check_same(spec, direct(expected, placement="colocated"))


@pytest.mark.parametrize("make", MAKERS)
def test_heterogeneous_modules_stand_at_their_offsets(make: Any) -> None:
    layout = {"language": {"tp": 2, "pp": 2, "rank_offset": 0}, "images": {"dp": 4, "rank_offset": 4}}
    written = {"language": make({"tp": 2, "pp": 2}), "images": make({"dp": 4, "rank_offset": 4})}
    for mode in ("heterogeneous", None):  # an offset other than 0 implies heterogeneous
        check_same(spec_of(written, deployment_mode=mode), direct(layout))
    assert planned(spec_of(written)).layout is ModuleLayout.NON_COLOCATED


def test_without_mode_and_offsets_modules_stand_end_to_end() -> None:
    for offset in ({}, {"rank_offset": 0}, {"rank_offset": None}):
        parallels = {"language": named({"tp": 2, **offset}, NEW), "images": named({"dp": 4, **offset}, NEW)}
        check_same(spec_of(parallels), direct({"language": {"tp": 2}, "images": {"dp": 4}}))


def test_without_any_sizes_everything_is_colocated() -> None:
    check_same(spec_of({"language": None, "images": None}), Spec(batch=BATCH, modules={"language": {}, "images": {}}))
    assert planned(spec_of({"language": None, "images": None})).world_size == 1


@given(st.data())
def test_random_layouts_agree(data: st.DataObject) -> None:
    layout: dict[str, dict[str, Any]] = {}
    for name in ("language", "images", "audio")[: data.draw(st.integers(1, 3))]:
        sizes = {axis: data.draw(st.integers(1, 3)) for axis in ("tp", "pp") if data.draw(st.booleans())}
        sizes |= {"dp": data.draw(st.sampled_from(divisors(12)))}
        layout[name] = sizes
    end = 0
    if data.draw(st.booleans()):
        for sizes in layout.values():
            sizes["rank_offset"] = end
            end += sizes.get("tp", 1) * sizes.get("pp", 1) * sizes["dp"]
    makers = [make.values[0] for make in MAKERS]
    written = {name: data.draw(st.sampled_from(makers))(sizes) for name, sizes in layout.items()}
    mode = data.draw(st.sampled_from([None, "heterogeneous"])) if end else None
    check_same(spec_of(written, deployment_mode=mode), direct(layout))


# ---- faults


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tensor_model_paralel_size", "tensor_model_parallel_size"),
        ("data_paralel", "data_parallel"),
        ("rank_ofset", "rank_offset"),
        ("pipeline_model_parallel", "pipeline_model_parallel_size"),
    ],
)
def test_unknown_names_are_refused_with_the_closest_known(name: str, meant: str) -> None:
    (fault,) = faults_of({"language": {name: 2}})
    assert fault.code.name == "S101"
    assert fault.path == ("module_parallelisms", "language", name)
    assert repr(name) in fault.rule
    assert f'did you mean "{meant}"?' in fault.remedy


@pytest.mark.parametrize("key", [1, None, True, ("tp",), "\x1b[2J"])
def test_keys_that_are_no_names_are_refused(key: Any) -> None:
    (fault,) = faults_of({"language": {key: 2}})
    assert fault.code.name == "S101"
    assert all(line.isprintable() for line in str(fault).split("\n"))


@pytest.mark.parametrize("given_sizes", [8, "tp2", 2.5, [2, 2], object()])
def test_what_holds_no_sizes_is_refused(given_sizes: Any) -> None:
    """Otherwise a slip of the pen would plan a module of one rank."""
    (fault,) = faults_of({"language": given_sizes})
    assert fault.code.name == "S103"
    assert fault.path == ("module_parallelisms", "language")


@pytest.mark.parametrize(
    ("size", "code"), [(0, "S104"), (-1, "S104"), (2**24 + 1, "S104"), ("2", "S103"), (2.0, "S103"), (True, "S103")]
)
def test_bad_sizes_are_refused_under_their_module(size: Any, code: str) -> None:
    for names in (NEW, OLD):
        (fault,) = faults_of({"language": {}, "images": {names["tp"]: size}})
        assert fault.code.name == code
        assert fault.path[:2] == ("module_parallelisms", "images")
        assert str(size) in fault.rule


def test_faults_of_all_modules_are_reported_together() -> None:
    faults = faults_of({"language": {"tensor_parallel": 0}, "images": {"dataparallel": 2, "pipeline_parallel": "x"}})
    assert [(fault.code.name, fault.path[1]) for fault in faults] == [
        ("S104", "language"),
        ("S101", "images"),
        ("S103", "images"),
    ]


def test_old_and_new_names_that_differ_are_refused() -> None:
    (fault,) = faults_of({"language": {"tensor_model_parallel_size": 2, "tensor_parallel": 4}})
    assert fault.code.name == "S107"
    assert fault.path == ("module_parallelisms", "language", "tensor_parallel")
    assert "2 and 4" in fault.rule


@pytest.mark.parametrize("mode", ["colocated", "homogeneous"])
def test_offsets_in_a_mode_without_are_refused(mode: str) -> None:
    sizes = {"tensor_parallel": 2, "rank_offset": 4}
    faults = faults_of({"language": sizes, "images": sizes}, deployment_mode=mode)
    assert [(fault.code.name, fault.path) for fault in faults] == [
        ("S107", ("module_parallelisms", name, "rank_offset")) for name in ("language", "images")
    ]
    assert all(mode in fault.rule and "4" in fault.rule for fault in faults)
    zero = {"tensor_parallel": 2, "rank_offset": 0}  # Megatron-Bridge's default, which says nothing
    check_same(
        spec_of({"language": zero, "images": zero}, deployment_mode=mode),
        direct({"language": {"tp": 2}, "images": {"tp": 2}}, placement="colocated"),
    )


def test_an_unknown_mode_is_refused() -> None:
    (fault,) = faults_of({"language": {}}, deployment_mode="hetero")
    assert (fault.code.name, fault.path) == ("S105", ("deployment_mode",))
    assert "'hetero'" in fault.rule
    assert "heterogeneous" in fault.remedy


def test_a_language_model_that_is_not_there_is_refused() -> None:
    (fault,) = faults_of({"llm": {}, "images": {}})
    assert (fault.code.name, fault.path) == ("T001", ("llm_module_name",))
    assert "llm, images" in fault.rule
    (fault,) = faults_of({"vicuna": {}, "images": {}}, llm_module_name="vicunna")
    assert 'did you mean "vicuna"?' in fault.remedy


def test_two_language_models_are_refused() -> None:
    """A module that becomes `language` may not silently replace another of that name."""
    faults = faults_of({"llm": {"tensor_parallel": 2}, "language": {"tensor_parallel": 4}}, llm_module_name="llm")
    assert len(faults) == 1
    assert "language" in faults[0].rule


def test_a_special_token_of_an_unknown_module_is_refused() -> None:
    """Otherwise a model would train without the tokens of a module whose name was misspelt."""
    (fault,) = faults_of({"language": {}, "images": {}}, special_token_ids={"image": 32000})
    assert fault.code.name == "T002"
    assert 'did you mean "images"?' in fault.remedy


def test_bad_batches_and_names_are_refused() -> None:
    assert [fault.code.name for fault in faults_of({"language": {}}, micro_batch_size=0)] == ["S104"]
    assert [fault.code.name for fault in faults_of({"language": {}, "2nd": {}})] == ["S106"]
    assert [fault.code.name for fault in faults_of({"language": {}}, special_token_ids={"language": 5})] == ["S107"]


def test_what_is_given_is_not_changed() -> None:
    sizes = named({"tp": 2, "dp": 2}, NEW)
    config = Config(**sizes)
    before = dict(vars(config))
    spec_of({"language": sizes, "images": config}, deployment_mode="colocated")
    assert sizes == named({"tp": 2, "dp": 2}, NEW)
    assert vars(config) == before


def test_the_spec_of_a_configuration_can_be_completed() -> None:
    """Models are no part of Megatron-Bridge's parallelism, and are added to the spec that it gives."""
    spec = spec_of({"language": named({"tp": 2, "pp": 2}, NEW)})
    language = attrs.evolve(spec.modules["language"], model={"preset": "vicuna-7b"})
    plan = planned(attrs.evolve(spec, modules={"language": language}))
    assert plan.module("language").stages == (16, 16)
