"""Law: equal plans have equal digests, in any process and on any machine, and different plans have different ones.

Ranks compare digests before the first group is made. So a digest may depend on nothing but the plan: not on hash seeds,
the order of a set, or the spelling of the spec.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import yaml
from hypothesis import given

from planner import Cluster, Freeze, Output, Plan, Spec, Training, load_spec, parse_spec
from planner.spec.spec import SPEC_TYPE
from tests import ROOT
from tests.strategies import Case, cases, planned, simple

PRINT_DIGESTS = """
import sys
from planner import compile_spec, parse_spec
for text in sys.stdin.read().split("---\\n")[1:]:
    plan = compile_spec(parse_spec(text))
    assert isinstance(hash(plan), int)
    print(plan.digest)
"""

SPECS = [
    simple(12, language={"tp": 2, "pp": 2}, images={"tp": 2, "dp": 2}),
    simple(12, images={"dp": 3}, audio={"dp": 4}, video={"tp": 2}, language={"dp": 2, "cp": 2}),
    simple(12, language={"tp": 3, "pp": 2, "cp": 2, "expt_tp": 2, "order": "tp-pp-cp-dp"}),
    attrs.evolve(simple(12, images={"dp": 4}, language={"tp": 4}), placement="colocated"),
    attrs.evolve(
        simple(12, images={}, audio={}, video={}, language={}, speech={}),
        topology={"images": ["audio", "language"], "audio": ["language"], "language": ["speech"]},
    ),
]


def as_yaml(spec: Spec) -> str:
    return yaml.safe_dump(SPEC_TYPE.encode(spec), sort_keys=False)


def digests_in_another_process(seed: str) -> list[str]:
    text = "".join(f"---\n{as_yaml(spec)}" for spec in SPECS)
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PRINT_DIGESTS]
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_other_processes_with_other_hash_seeds_agree(seed: str) -> None:
    here = [planned(spec).digest for spec in SPECS]
    assert len(set(here)) == len(SPECS)
    assert digests_in_another_process(seed) == here


@given(cases())
def test_the_spelling_of_a_spec_does_not_count(case: Case) -> None:
    """From YAML or Python, with keys in any order and defaults written out or not, the digest is the same."""
    plan = case.plan()
    encoded = SPEC_TYPE.encode(case.spec)
    reordered = {key: encoded[key] for key in reversed(list(encoded))}
    for fields in (encoded, reordered):
        again = planned(parse_spec(yaml.safe_dump(fields, sort_keys=False)), case.world_size)
        assert again == plan
        assert again.digest == plan.digest


@given(cases(max_modules=3), cases(max_modules=3))
def test_digests_are_equal_exactly_when_plans_are(one: Case, other: Case) -> None:
    first, second = one.plan(), other.plan()
    assert (first.digest == second.digest) == (first == second)


def changes() -> dict[str, Spec]:
    """A small spec, and copies of it with one change each, in every part of the document."""
    base = simple(12, images={"tp": 2, "dp": 2}, language={"tp": 2, "dp": 2})
    images, language = base.modules["images"], base.modules["language"]

    def with_images(**fields: object) -> Spec:
        return attrs.evolve(base, modules={"images": attrs.evolve(images, **fields), "language": language})

    def with_parallel(**fields: object) -> Spec:
        return with_images(parallel=attrs.evolve(images.parallel, **fields))

    return {
        "base": base,
        "module order": attrs.evolve(base, modules={"language": language, "images": images}),
        "direction": attrs.evolve(base, topology={"language": ["images"]}),
        "placement": attrs.evolve(base, placement="colocated"),
        "axis order": with_parallel(order="dp-cp-tp-pp"),
        "sizes": with_parallel(tp=4, dp=1),
        "sequence parallel": with_parallel(sequence_parallel=True),
        "frozen encoder": with_images(freeze=Freeze(encoder=True)),
        "frozen projection": with_images(freeze=Freeze(projection=True)),
        "tensor dims": with_images(output=Output(tensor_dims=3)),
        "batch dim": with_images(output=Output(batch_dim=1)),
        "tokens": with_images(output=Output(tokens_per_sample=16)),
        "special token": with_images(special_token_id=7),
        "recompute": with_images(recompute="full"),
        "stages": with_images(stages=[3]),
        "global size": attrs.evolve(base, batch=attrs.evolve(base.batch, global_size=36)),
        "micro size": attrs.evolve(base, batch=attrs.evolve(base.batch, micro_size=6)),
        "sequence": attrs.evolve(base, batch=attrs.evolve(base.batch, seq_length=2048)),
        "learning rate": attrs.evolve(base, training=Training(lr=2e-4)),
        "cluster": attrs.evolve(base, cluster=Cluster(nodes=2, gpus_per_node=4)),
        "node size": attrs.evolve(base, cluster=Cluster(nodes=1, gpus_per_node=8)),
    }


def test_each_single_change_is_another_digest() -> None:
    digests = {name: planned(spec).digest for name, spec in changes().items()}
    owners: dict[str, str] = {}
    for name, digest in digests.items():
        assert digest not in owners, f"{name} has the digest of {owners[digest]}"
        owners[digest] = name


def test_a_spec_in_a_file_has_the_digest_of_its_text(tmp_path: Path) -> None:
    """Places in files, names of files and comments are no part of a plan."""
    spec = SPECS[0]
    path = tmp_path / "spec.yaml"
    path.write_text("# a comment\n\n" + as_yaml(spec))
    from_file = planned(load_spec(path))
    assert from_file == planned(spec)
    assert from_file.digest == planned(spec).digest
    assert Plan.from_json(from_file.to_json()).digest == from_file.digest
