"""Law: what is advised was tried. Written into the spec it runs, fits, and takes the seconds that were said."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

import attrs
import pytest

from planner import Plan, compile_spec, parse_spec
from planner.advice import notes as notes_module
from planner.advice.changes import faster_changes
from planner.advice.notes import MEMORY_ERROR, notes
from planner.cli import main
from planner.cost.predict import predict
from planner.cost.prediction import Prediction
from planner.cost.simulation.words import duration
from planner.cost.timing.hardware import Hardware, load_hardware
from planner.limits.layers import Layers
from planner.limits.limits import limits_of
from planner.limits.target import Target
from planner.testing import PlanOf
from tests import EXAMPLES

SIZED = sorted(path.stem for path in EXAMPLES.glob("*.yaml") if "model:" in path.read_text())
STAGES = """\
cluster: {gpu: h100, gpus_per_node: 8}
batch: {global_size: 32, micro_size: 8, seq_length: 1024}
modules:
  language: {parallel: {pp: 8}, model: {preset: vicuna-7b}, recompute: full}
training: {distributed_optimizer: true}
"""
VICUNA = """\
cluster: {nodes: 1, gpus_per_node: 8, gpu: h100}
batch: {global_size: 128, micro_size: 32, seq_length: 4096}
modules:
  language: {parallel: {tp: 2}, model: {preset: vicuna-7b}}
training: {distributed_optimizer: true}
"""


def predicted(text: str) -> tuple[Plan, Prediction]:
    plan = compile_spec(parse_spec(text))
    return plan, predict(plan)


def with_memory(gib: float) -> Hardware:
    """An h100 of another size."""
    gpu = load_hardware("h100")
    return attrs.evolve(gpu, memory_gib=attrs.evolve(gpu.memory_gib, value=gib))


@pytest.mark.parametrize("name", SIZED)
def test_a_faster_layout_takes_the_seconds_that_are_said(name: str, plan_of: PlanOf) -> None:
    plan = plan_of(EXAMPLES / f"{name}.yaml")
    before = predict(plan)
    changes = {change.words: change for change in faster_changes(plan)}
    assert len(changes) == len(list(faster_changes(plan)))  # different changes have different words
    for note in notes(plan, before):
        assert note.severity == "note"
        words, _, times = note.remedy.partition(": a step then takes ")
        if not times:
            assert "none of what was tried is faster" in words
            continue
        changed = compile_spec(changes[words].spec, world_size=plan.world_size)
        after = predict(changed, before.hardware)
        assert times == f"{duration(after.step_seconds)} instead of {duration(before.step_seconds)}"
        assert after.step_seconds < before.step_seconds
        assert after.fits
        assert after.bubble < before.bubble
        assert changed.batch_sizes.global_size == plan.batch_sizes.global_size
        assert [one.model for one in changed.modules] == [one.model for one in plan.modules]
        target = Target(layers=Layers.TRANSFORMER_ENGINE)
        assert len(limits_of(changed, target)) <= len(limits_of(plan, target))


def test_what_a_note_says_can_be_written_by_hand() -> None:
    """The example's note, as its reader would write it."""
    text = (EXAMPLES / "llava_8gpu.yaml").read_text()
    (note,) = notes(*predicted(text))
    assert note.code.name == "N002"
    assert note.rule.endswith("got 5.3% of images")
    assert note.remedy == (
        "placement: colocated with tp: 4 pp: 1 dp: 2 sequence_parallel: true on language and dp: 4 on images "
        "with batch.micro_size: 16: a step then takes 4.53 s instead of 7.78 s"
    )
    written = text.replace("{tp: 2, pp: 2}", "{tp: 4, pp: 1, dp: 2, sequence_parallel: true}")
    written = written.replace("{tp: 2, dp: 2}", "{tp: 2, dp: 4}").replace("micro_size: 4 ", "micro_size: 16 ")
    plan, after = predicted(written + "placement: colocated\n")
    assert duration(after.step_seconds) == "4.53 s"
    assert not [note for note in notes(plan, after) if note.code.name != "N003"]


def test_a_wide_bubble_is_a_note() -> None:
    plan, before = predicted(STAGES)
    (note,) = notes(plan, before)
    assert (note.code.name, note.path) == ("N001", ("batch",))
    assert note.rule == f"the bubble <= 30% of the pipeline's time, got {before.bubble:.1%}"
    assert note.mark
    assert note.mark.line == 2
    assert before.bubble > 7 / 11  # four microbatches on eight stages
    assert "micro_size" in note.remedy or "pp: 4" in note.remedy


def test_layers_that_are_listed_are_taken_out_with_their_stages() -> None:
    text = STAGES.replace("recompute: full", "recompute: full, stages: [4, 4, 4, 4, 4, 4, 4, 4]")
    plan, before = predicted(text)
    (note,) = notes(plan, before)
    assert " on language without stages" in note.remedy


def test_advice_has_a_bound_on_its_work() -> None:
    """Twenty encoders of four stages: each try takes a tenth of a second."""
    encoder = "{parallel: {pp: 4, dp: 2}, model: {preset: clip-vit-l-14-336}, stages: [5, 6, 6, 6]}"
    modules = "".join(f"  m{number}: {encoder}\n" for number in range(20))
    head = "cluster: {gpu: h100, gpus_per_node: 8}\nbatch: {global_size: 64, micro_size: 8, seq_length: 2048}\n"
    text = f"{head}modules:\n  language: {{parallel: {{tp: 8, pp: 4, dp: 2}}, model: {{preset: vicuna-7b}}}}\n{modules}"
    plan, before = predicted(text)
    tried = 0

    def counted(frame: FrameType, event: str, _: object) -> None:
        nonlocal tried
        tried += event == "call" and frame.f_code is notes_module._try.__code__

    sys.setprofile(counted)
    try:
        assert notes(plan, before)
    finally:
        sys.setprofile(None)
    assert 0 < tried <= 4


def test_memory_within_the_error_of_the_prediction_is_a_note(plan_of: PlanOf) -> None:
    plan = plan_of(EXAMPLES / "llava_8gpu_colocated.yaml")
    worst = predict(plan).worst.total / 2**30
    for room, expected in ((1.01, ["N003"]), (1 + 2 * MEMORY_ERROR, [])):
        found = notes(plan, predict(plan, with_memory(worst * room)))
        assert [note.code.name for note in found] == expected
        assert all(re.search(r"saves .* which fits; a step takes", note.remedy) for note in found)
    assert notes(plan, predict(plan, with_memory(worst * 0.99))) == ()  # W006 speaks


def test_strict_leaves_notes_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(STAGES)
    assert main(["predict", str(path), "--strict"]) == 0
    assert f"{path}:2:1: note[N001] batch: the bubble" in capsys.readouterr().err
    assert main(["report", str(path), "--strict", "-o", str(tmp_path / "page.html")]) == 0
    assert "note[N001] batch: the bubble" in (tmp_path / "page.html").read_text()
    assert main(["plan", str(path), "--strict"]) == 0


def test_of_what_fits_the_fastest_is_advised_first() -> None:
    """F10 of the public reports: vicuna-7b, tp 2, micro 32 on 8 H100. Recompute was advised, micro 16 is faster."""
    plan, before = predicted(VICUNA)
    assert not before.fits
    first, second, third = before.remedies
    assert first.startswith("batch.micro_size: 16 saves ")
    assert second.startswith("recompute: full on language saves ")
    assert third.startswith("sequence_parallel: true on language saves ")
    seconds = [float(re.findall(r"which fits; a step takes ([\d.]+) s", line)[0]) for line in (first, second)]
    assert seconds == sorted(seconds)
    assert "still " in third
    assert notes(plan, before) == ()


def test_two_changes_together_are_advised_if_one_is_not_enough(plan_of: PlanOf) -> None:
    plan = plan_of(EXAMPLES / "llava_8gpu.yaml")
    for gib, num_changes in ((33, 2), (31, 3)):
        first, *others = predict(plan, with_memory(gib)).remedies
        assert first.count(": ") == num_changes
        assert "which fits; a step takes " in first
        assert all("still " in line for line in others)
