"""Law: layers are Transformer Engine's if there are a GPU and the package, else local. None is built on a GPU here."""

from __future__ import annotations

from contextvars import copy_context
from importlib.util import find_spec
from unittest import mock

import attrs
import pytest

from executor.errors import UnsupportedError
from executor.start import device, layer_backend
from executor.start.layer_backend import ask_for, choose_layers
from executor.start.limits import check_limits
from planner import Cluster
from planner.limits.layers import Layers
from tests.executor.jobs import ranks, specs


def machine(*, gpu: bool, package: bool) -> mock.mock._patch_dict:
    """A machine with a GPU and Transformer Engine, or without."""
    spec = find_spec("json") if package else None
    return mock.patch.multiple(layer_backend, find_spec=lambda _: spec, device=mock.Mock(ON_GPU=gpu))


@pytest.mark.parametrize(
    ("gpu", "package", "chosen"),
    [
        (True, True, Layers.TRANSFORMER_ENGINE),
        (True, False, Layers.LOCAL),
        (False, True, Layers.LOCAL),
        (False, False, Layers.LOCAL),
    ],
)
def test_a_gpu_and_the_package_are_both_needed(gpu: bool, package: bool, chosen: Layers) -> None:
    with machine(gpu=gpu, package=package):
        assert choose_layers() is chosen


def test_without_a_gpu_layers_are_local() -> None:
    assert device.ON_GPU or choose_layers() is Layers.LOCAL
    (names,) = ranks.run(1, "layer_jobs:modules_of_a_block", "local")
    assert names == {
        "qkv": "ColumnParallelLinear",
        "input norm": "LocalNorm",
        "last norm": "LocalNorm",
        "mask": "no_mask",
    }


def test_transformer_engines_layers_come_from_megatron_cores_own_specs() -> None:
    """Norms are inside linear layers. Stand-ins replace the modules of the package, which tests do not install."""
    (names,) = ranks.run(1, "layer_jobs:modules_of_a_block", "te")
    assert names == {
        "qkv": "FusedLinear",
        "input norm": "IdentityOp",
        "last norm": "Norm",
        "mask": "no_mask",
    }


def test_a_transformer_engine_that_does_not_import_is_named() -> None:
    (message,) = ranks.run(1, "layer_jobs:broken_transformer_engine")
    assert message == "transformer_engine is installed but does not import: repair it, or uninstall it"


def test_context_parallelism_of_language_needs_transformer_engine() -> None:
    plan = specs.plan({"cp": 2}, {})
    with machine(gpu=True, package=True):
        check_limits(plan)
    with machine(gpu=False, package=True), pytest.raises(UnsupportedError, match="cp = 1 with local attention, got 2"):
        check_limits(plan)


def test_layers_that_were_planned_and_are_not_here_are_said() -> None:
    """`mimo plan` goes by the GPU that the spec names, and this machine by what it has."""
    plan = specs.plan({"cp": 2}, {})
    on_gpu = attrs.evolve(plan, cluster=Cluster(gpu="h100"))
    said = {}
    for name, one in (("none", plan), ("h100", on_gpu)):
        with machine(gpu=False, package=True), pytest.raises(UnsupportedError) as caught:
            check_limits(one)
        said[name] = str(caught.value).splitlines()[-1]
    assert said["none"].startswith("    fix: ")
    assert said["h100"] == (
        "`mimo plan` takes Transformer Engine's layers for this spec, and this machine builds local layers"
    )


@pytest.mark.parametrize(("gpu", "package"), [(True, True), (True, False), (False, True)])
def test_layers_may_be_asked_for_where_they_run(gpu: bool, package: bool) -> None:
    def chosen(layers: Layers | None) -> Layers:
        with machine(gpu=gpu, package=package):
            ask_for(layers)
            return choose_layers()

    assert copy_context().run(chosen, Layers.LOCAL) is Layers.LOCAL
    if gpu and package:
        assert copy_context().run(chosen, Layers.TRANSFORMER_ENGINE) is Layers.TRANSFORMER_ENGINE
    else:
        missing = "no package transformer_engine" if gpu else "no GPU"
        with pytest.raises(UnsupportedError, match=f"--target te: .* since it has {missing}: leave it out"):
            copy_context().run(chosen, Layers.TRANSFORMER_ENGINE)


def test_only_transformer_engines_layers_are_told_of_context_parallelism() -> None:
    """Local attention asserts when it is made. A plan that it cannot run is still built on meta, to be counted."""
    text = specs.plan({"cp": 2}, {}).to_json()
    assert ranks.run(1, "layer_jobs:context_parallel_size", text, "te") == [2]
    assert ranks.run(1, "layer_jobs:context_parallel_size", text, "local") == [1]
