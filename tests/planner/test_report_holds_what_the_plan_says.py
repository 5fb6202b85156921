"""Law: the page of a report holds what the plan and its prediction say. These tests need no browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given

from planner import Parallel, compile_spec, load_spec
from planner.cli import main
from planner.cost.predict import predict
from planner.cost.simulation.durations import Durations
from planner.cost.simulation.schedule import Stage
from planner.cost.simulation.simulate import DeadlockError, simulate
from planner.cost.simulation.words import duration
from planner.cost.work.settings import EXECUTOR
from planner.report import page as page_module
from planner.report.build import MAX_CELLS, MAX_OPERATIONS, build_report
from planner.report.costs import limit_of, memory_of, traffic_of
from planner.report.page import embedded, render_page
from planner.report.typeset import typeset
from planner.testing import PlanOf
from tests.planner.report_samples import BIG, EXAMPLE, sample
from tests.strategies import Case, cases


@given(cases(max_modules=4))
def test_every_rank_is_on_the_map_where_the_plan_puts_it(case: Case) -> None:
    plan = case.plan()
    report = build_report(plan, "spec.yaml")
    cells = [cell for node in report.nodes for cell in node.cells]
    assert [cell.rank for cell in cells] == list(range(plan.world_size))
    for cell in cells:
        view = plan.view(cell.rank)
        shown = {report.modules[at.module].name: (at.stage, at.lane, at.cp, at.tp) for at in cell.places}
        assert shown == {
            name: tuple(coords[axis] for axis in ("pp", "dp", "cp", "tp")) for name, coords in view.coords.items()
        }
    if plan.gpus_per_node:
        assert all(
            report.nodes[plan.view(cell.rank).node or 0].name == f"node {plan.view(cell.rank).node}" for cell in cells
        )


@given(cases(max_modules=3))
def test_the_rows_of_the_timeline_are_its_operations(case: Case) -> None:
    plan = case.plan()
    try:
        found = simulate(plan, Durations.uniform(plan))
    except DeadlockError:
        return
    content = build_report(plan, "spec.yaml", timeline=found, is_predicted=False).timeline
    assert content is not None
    assert content.num_left_out == 0
    for index, row in enumerate(content.rows):
        operations = list(found.operations(index))
        for at, one in enumerate(operations):
            assert row.starts[at] * content.tick == pytest.approx(one.start, abs=content.tick)
            assert row.ends[at] * content.tick == pytest.approx(one.end, abs=content.tick)
            assert (row.microbatches[at], row.stages[at]) == (one.microbatch, one.stage.index)
            assert plan.modules[row.modules[at]].name == one.stage.module
            reason = content.reasons[row.reasons[at]] if row.reasons[at] >= 0 else None
            assert reason == (typeset(str(one.waited_for.reason)) if one.waited_for else None)
        critical = {(operations[at].stage, operations[at].microbatch, operations[at].direction) for at in row.critical}
        assert critical <= {(s.where, s.microbatch, s.direction) for s in found.path}
    assert sum(len(row.critical) for row in content.rows) >= len(
        {s for s in found.path if s.seconds and "->" not in str(s.where)}
    )


def test_the_page_may_load_nothing_and_send_nothing() -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', render_page(sample(BIG)))
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "script-src": "'unsafe-inline'",
        "img-src": "data:",
        "form-action": "'none'",  # the default covers neither of these two
        "base-uri": "'none'",
    }


def test_a_large_world_is_shown_by_stage() -> None:
    report = sample(BIG)
    assert BIG.cluster is not None
    assert report.nodes == ()
    assert len(report.stages) == 68
    assert sum(stage.num_ranks for stage in report.stages) == 131_072 > MAX_CELLS
    assert report.stages[0].ranks == "0-1023"
    assert report.stages[0].nodes == "0-127"
    plan = compile_spec(BIG)
    for stage in report.stages:
        ranks = [rank for first, last in stage.runs for rank in range(first, last + 1)]
        assert ranks == list(plan.groups(report.modules[stage.module].name, "tp_dp_cp")[stage.stage])
    assert len(render_page(report)) < 3_000_000


def test_a_huge_timeline_leaves_rows_out_and_says_so() -> None:
    modules = {
        "language": attrs.evolve(
            BIG.modules["language"], parallel=attrs.evolve(BIG.modules["language"].parallel, pp=512, dp=1)
        )
    }
    batch = attrs.evolve(BIG.batch, global_size=512, micro_size=1)
    plan = compile_spec(attrs.evolve(BIG, modules=modules, batch=batch, cluster=None))
    content = build_report(plan, "x", timeline=simulate(plan, Durations.uniform(plan))).timeline
    assert content is not None
    assert sum(len(row.starts) for row in content.rows) <= MAX_OPERATIONS
    assert content.num_left_out == 512 - len(content.rows) > 0
    assert (content.rows[0].name, content.rows[-1].name) == ("language stage 0", "language stage 511")


def test_the_page_is_one_file_that_loads_nothing() -> None:
    page = render_page(sample())
    assert "{{" not in page.replace(embedded(sample()), "")
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)""", page)
    assert not re.search(r"@import|url\((?!#)|\bfetch\(|XMLHttpRequest|import\(", page)
    assert "default-src 'none'" in page


def test_the_page_carries_no_documentation_of_its_scripts() -> None:
    """What only editors and the type checker read stays out of every report."""
    page = render_page(sample())
    assert "@param" not in page
    assert "function roundStep(" in page


def test_text_of_a_user_cannot_leave_its_place() -> None:
    hostile = "</script><!-- & <b>"
    report = attrs.evolve(sample(), title=hostile)
    assert "<" not in embedded(report)
    assert json.loads(embedded(report))["title"] == hostile
    assert "<title>&lt;/script&gt;" in render_page(report)


def test_the_command_writes_page_and_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str], plan_of: PlanOf) -> None:
    page, trace = tmp_path / "report.html", tmp_path / "trace.json"
    assert main(["report", str(EXAMPLE), "-o", str(page), "--trace", str(trace)]) == 0
    assert content_of(page)["digest"] == plan_of(EXAMPLE).digest
    assert len(json.loads(trace.read_text())["traceEvents"]) > 100
    assert capsys.readouterr().out == ""


def content_of(page: Path) -> dict[str, Any]:
    content = re.search(r'id="content">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    assert content is not None
    found: dict[str, Any] = json.loads(content[1])
    return found


def test_all_traffic_says_what_it_is() -> None:
    """The layout uses every kind of group over which anything is sent."""
    spec = load_spec(EXAMPLE.parent / "moe_ep8_32gpu.yaml")
    language = spec.modules["language"]
    model = attrs.evolve(language.model, untie_embeddings_and_output_weights=False)
    parallel = Parallel(tp=2, cp=2, pp=2, dp=4, ep=2, expt_tp=2)
    modules = {"language": attrs.evolve(language, model=model, parallel=parallel)}
    rows = list(traffic_of(predict(compile_spec(attrs.evolve(spec, cluster=None, modules=modules, topology={})))))
    assert {row.kind for row in rows} == {"tp", "cp", "ep", "expt_tp", "dp_cp", "expt_dp", "embd", "pp"}
    assert all(row.what for row in rows)


def test_the_page_counts_memory_as_the_prediction_does(plan_of: PlanOf) -> None:
    plan = plan_of(EXAMPLE)
    found = predict(plan, settings=EXECUTOR)
    assert found.worst.total != predict(plan).worst.total
    bars = memory_of(plan, found).bars
    assert max(sum(part.bytes for part in bar.parts) for bar in bars) == pytest.approx(found.worst.total)


@pytest.mark.parametrize("name", ["vision_audio_8gpu", "llava_8gpu_colocated", "vision_audio_64gpu"])
def test_the_page_shows_what_is_predicted(name: str, tmp_path: Path) -> None:
    spec, page = EXAMPLE.parent / f"{name}.yaml", tmp_path / "report.html"
    assert main(["report", str(spec), "-o", str(page)]) == 0
    content, expected = content_of(page), predict(compile_spec(load_spec(spec)))
    timeline, memory = content["timeline"], content["memory"]
    assert timeline["is_predicted"] is True
    assert timeline["makespan"] * timeline["tick"] == pytest.approx(expected.pipeline_seconds, rel=1e-6)
    assert timeline["path"] == list(map(typeset, expected.critical_path))
    assert memory["limit"] == expected.memory_limit
    totals = [sum(part["bytes"] for part in bar["parts"]) for bar in memory["bars"]]
    assert max(totals) == pytest.approx(expected.worst.total)
    assert sum(bar["num_ranks"] for bar in memory["bars"]) == expected.world_size
    owners = {row["owner"] for row in content["traffic"]}
    assert {bridge.name.replace("->", " → ") for bridge in expected.bridges} <= owners
    facts = {fact["label"]: fact["value"] for fact in content["facts"]}
    assert facts["Memory"] == ("fits" if expected.fits else "does not fit")
    assert facts["Step time"] == duration(expected.step_seconds)
    assert facts["Bubble"] == f"{expected.bubble:.1%}"
    assert facts["Fullest rank"] == f"rank {expected.worst.rank}"
    problems = [notice["text"] for notice in content["notices"] if notice["is_problem"]]
    assert len(problems) == (0 if expected.fits else 1)
    assert all(expected.remedies[0] in problem for problem in problems)
    assert {tuple(part["name"] for part in bar["parts"]) for bar in memory["bars"]} == {
        ("weights, gradients, optimizer", "activations", "logits", "buffers", "communicators")
    }, "a part has one place, and with it one colour, in every bar"


@pytest.mark.parametrize(
    ("name", "limit"), [("vision_audio_8gpu", "language stage 1"), ("llama70b_1024gpu", "language")]
)
def test_what_limits_the_step_is_named(name: str, limit: str, plan_of: PlanOf) -> None:
    """It is the stage that takes half of the critical path, or else the module whose stages take most of it."""
    timeline = predict(plan_of(EXAMPLE.parent / f"{name}.yaml")).timeline
    assert timeline is not None
    own = [one for one in timeline.path if f"{one.where} ".startswith(f"{limit} ") and isinstance(one.where, Stage)]
    share = sum(one.seconds for one in own) / timeline.makespan
    fact = limit_of(timeline)
    assert (fact.value, fact.note) == (limit, f"{share:.0%} of the critical path")
    assert share > 0.5


def test_words_are_set_as_a_page_sets_them() -> None:
    assert typeset("40 us for a->b") == "40 µs for a → b"
    assert typeset("the us of 5 uses") == "the us of 5 uses"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_read(theme: str) -> None:
    """WCAG AA asks for a contrast of 4.5 for text, and of 3 for what one needs to understand a picture."""
    colours = palette(theme)
    for index in range(8):
        filled, text = colours[f"m{index}"], colours.get(f"on{index}", colours["on"])
        assert contrast(filled, colours["bg"]) >= 3, index
        assert contrast(filled, text) >= 4.5, index
    for index in range(5):
        assert contrast(colours[f"p{index}"], colours[f"q{index}"]) >= 4.5, index
    pairs = ("muted bg", "muted card", "bad bg", "bad bad-bg", "good card", "fg warn-bg", "accent card")
    for text, behind in map(str.split, pairs):
        assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)


def palette(theme: str) -> dict[str, str]:
    """The colours of the style sheet. The dark scheme keeps those of the light one that it does not change."""
    style = (Path(page_module.__file__).parent / "page" / "page.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part)) for part in style.split("}")[:2])
    return {**light, **dark} if theme == "dark" else light


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""

    def luminance(colour: str) -> float:
        parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_the_gpu_can_be_named(tmp_path: Path) -> None:
    pages = [tmp_path / f"{gpu}.html" for gpu in ("h100", "b200")]
    for page in pages:
        assert main(["report", str(EXAMPLE), "-o", str(page), "--gpu", page.stem]) == 0
    h100, b200 = map(content_of, pages)
    assert (h100["memory"]["gpu"], b200["memory"]["gpu"]) == ("h100", "b200")
    assert b200["memory"]["limit"] > h100["memory"]["limit"]
    assert (
        b200["timeline"]["makespan"] * b200["timeline"]["tick"]
        < h100["timeline"]["makespan"] * h100["timeline"]["tick"]
    )


def test_without_sizes_the_schedule_is_drawn_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    assert main(["report", str(EXAMPLE.parent / "qwen35_vl_17rank.yaml"), "-o", str(page)]) == 0
    assert "no model is given for language, images" in capsys.readouterr().err
    content = content_of(page)
    assert content["timeline"]["is_predicted"] is False
    assert content["memory"] is None
    assert not content["traffic"]
    assert "Step time" not in {fact["label"] for fact in content["facts"]}


def test_the_command_needs_something_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["report", str(EXAMPLE)])
    assert left.value.code == 2
    assert "-o FILE" in capsys.readouterr().err


def test_a_layout_that_stops_has_a_page_without_a_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, page, trace = (tmp_path / name for name in ("spec.yaml", "report.html", "trace.json"))
    spec.write_text(
        "schema: 1\nbatch: {global_size: 8, micro_size: 2, seq_length: 64}\nplacement: colocated\n"
        "modules:\n  language: {parallel: {pp: 2}}\n  images: {parallel: {pp: 2}}\n"
    )
    assert main(["report", str(spec), "-o", str(page), "--trace", str(trace)]) == 1
    assert "no timeline: the schedule stops for good: " in capsys.readouterr().err
    assert [(one["is_problem"], "stops for good" in one["text"]) for one in content_of(page)["notices"]] == [
        (True, True)
    ]
    assert not trace.exists()


def test_a_predicted_layout_that_stops_has_no_step_time(tmp_path: Path) -> None:
    spec, page = tmp_path / "spec.yaml", tmp_path / "report.html"
    spec.write_text(
        "schema: 1\nbatch: {global_size: 8, micro_size: 2, seq_length: 1024}\nplacement: colocated\n"
        "modules:\n  language: {parallel: {pp: 2}, model: {preset: vicuna-7b}}\n"
        "  images:\n    parallel: {pp: 2}\n    stages: [11, 12]\n    model: {preset: clip-vit-l-14-336}\n"
        "    output: {tensor_dims: 2, tokens_per_sample: 576}\n"
    )
    assert main(["report", str(spec), "-o", str(page)]) == 0
    content = content_of(page)
    assert {fact["label"]: fact["value"] for fact in content["facts"]}["Step time"] == "none"
    assert [one["is_problem"] for one in content["notices"]] == [True, False]
    assert "h100 is assumed" in content["notices"][1]["text"]
