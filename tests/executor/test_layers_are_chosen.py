"""Law: layers are Transformer Engine's if there are a GPU and the package, else local. None is built on a GPU here."""

from __future__ import annotations

from importlib.util import find_spec
from unittest import mock

import pytest

from executor.megatron_limits import READY_MODELS, limits_of
from executor.start import device, layer_backend
from executor.start.layer_backend import Layers, choose_layers
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
    (names,) = ranks.run(1, "layer_jobs:modules_of_a_block", "transformer_engine")
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
    rules = {}
    for gpu in (True, False):
        with machine(gpu=gpu, package=True):
            rules[gpu] = [limit.rule for limit in limits_of(plan) if limit.component == READY_MODELS]
    assert rules[True] == []
    assert rules[False] == [
        "cp = 1 with local attention, got 2: context parallelism needs Transformer Engine's, on a GPU"
    ]


def test_only_transformer_engines_layers_are_told_of_context_parallelism() -> None:
    """Local attention asserts when it is made. A plan that it cannot run is still built on meta, to be counted."""
    text = specs.plan({"cp": 2}, {}).to_json()
    assert ranks.run(1, "layer_jobs:context_parallel_size", text, "transformer_engine") == [2]
    assert ranks.run(1, "layer_jobs:context_parallel_size", text, "local") == [1]
