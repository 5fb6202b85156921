"""The accuracy that the project promises, on published runs. Deterministic; the limits are those of the benchmark."""

from __future__ import annotations

import attrs
import pytest

from planner.cost.measured.accuracy import Errors, choice_loss, cross_validated, samples_of, spearman
from planner.cost.measured.calibrate import fitted, predicted, unfitted
from planner.cost.measured.csv_file import Runs, read_runs
from planner.cost.measured.measurements import measured_gib
from planner.cost.measured.predict import row_gib
from planner.cost.timing.hardware import load_hardware
from tests import DATA

FOLDER = DATA / "runs"


def runs(name: str) -> Runs:
    path = FOLDER / f"{name}_given.csv"
    return read_runs(path.read_text(), str(path))


@pytest.mark.parametrize(
    ("name", "num_runs", "limit"),
    [("b200_llama", 16, 0.05), ("a100_single_node", 432, 0.084), ("a100_multi_node", 30, 0.12)],
)
def test_times_in_sample_and_without_a_fit(name: str, num_runs: int, limit: float) -> None:
    samples = samples_of(runs(name))
    assert len(samples) == num_runs
    measured = [sample.seconds for sample in samples]
    hardware = load_hardware(name.partition("_")[0])
    assert Errors.of(predicted(samples, hardware), measured).mean <= limit
    assert Errors.of(predicted(samples, unfitted(hardware)), measured).mean <= limit


def test_memory_with_nothing_fitted() -> None:
    found = runs("b200_llama")
    measured = [measured_gib(row) for row in found.rows]
    errors = Errors.of([row_gib(sample.work) for sample in samples_of(found)], measured)
    assert errors.mean <= 0.02
    assert errors.largest <= 0.04


def test_times_of_layouts_left_out() -> None:
    found = runs("b200_llama")
    samples = samples_of(found)
    keys = [tuple(row.text(f"modules.language.parallel.{axis}") for axis in ("tp", "pp", "cp")) for row in found.rows]
    (seconds,) = cross_validated(load_hardware("b200"), [samples], [keys])
    assert Errors.of(seconds, [sample.seconds for sample in samples]).mean <= 0.05


def test_times_of_sizes_left_out_of_many_nodes() -> None:
    """Each size by constants fitted to the others, few steps: what the benchmark does at length."""
    found = runs("a100_multi_node")
    samples = samples_of(found)
    keys = [row.text("modules.language.model.hidden_size") for row in found.rows]
    (seconds,) = cross_validated(load_hardware("a100"), [samples], [keys], steps=20)
    assert Errors.of(seconds, [sample.seconds for sample in samples]).mean <= 0.12


@pytest.mark.parametrize(("name", "num_choices"), [("a100_single_node", 94), ("a100_multi_node", 4)])
def test_layouts_are_ranked_and_chosen_as_measured(name: str, num_choices: int) -> None:
    samples = samples_of(runs(name))
    seconds = predicted(samples, load_hardware("a100"))
    assert spearman(seconds, [sample.seconds for sample in samples]) >= 0.97
    loss, _, number = choice_loss(samples, seconds)
    assert number == num_choices
    assert loss <= 0.03


def test_few_constants_are_fitted() -> None:
    assert len(fitted(load_hardware("b200"))) <= 5
    assert len(fitted(load_hardware("a100"))) <= 10


@pytest.mark.parametrize("method", ["selective", "full"])
def test_recomputation_of_published_runs_is_never_fitted_and_close(method: str) -> None:
    """Korthikanti et al. 2022, table 5, up to a trillion parameters; selective with sequence parallelism."""
    found = runs("a100_recompute")
    methods = [row.text("modules.language.recompute") for row in found.rows]
    samples = [sample for sample, one in zip(samples_of(found), methods, strict=True) if one == method]
    assert len(samples) == 4
    errors = Errors.of(predicted(samples, load_hardware("a100")), [sample.seconds for sample in samples])
    assert errors.mean <= 0.10


def test_cross_validation_never_sees_what_it_predicts() -> None:
    """Rows with absurd times do not change their own predictions."""
    found = runs("b200_llama")
    samples = samples_of(found)
    keys = [row.text("batch.seq_length") for row in found.rows]
    absurd = tuple(
        attrs.evolve(sample, seconds=1000 * sample.seconds) if key == "131072" else sample
        for sample, key in zip(samples, keys, strict=True)
    )
    hardware = load_hardware("b200")
    ((*honest,), (*spoilt,)) = (cross_validated(hardware, [each], [keys], steps=20)[0] for each in (samples, absurd))
    for key, before, after in zip(keys, honest, spoilt, strict=True):
        assert (before == after) == (key == "131072")
