"""Law: in a real browser the report draws, answers the pointer and the keys, and asks for nothing outside its file.

This needs a Chromium on the PATH (Debian: `apt-get install chromium`) and playwright, which downloads nothing here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from planner import Cluster, compile_spec, load_spec
from planner.cli import main
from planner.report.content import Notice, Report
from planner.report.page import render_page
from tests.planner.report_samples import BIG, EXAMPLE, sample

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser to drive")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@attrs.define
class Shown:
    """A page, with the errors that it reported and the files that it asked for."""

    page: Any
    complaints: list[str]
    requests: list[str]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    contexts = []

    def shown(html: str, width: int = 1280, scheme: str = "light", has_touch: bool = False) -> Shown:
        file = tmp_path / "report.html"
        file.write_text(html, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=has_touch
        )
        contexts.append(context)
        page = context.new_page()
        found = Shown(page, [], [])
        page.on("console", lambda message: found.complaints.append(message.text))
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.on("request", lambda request: found.requests.append(request.url))
        page.goto(file.as_uri())
        return found

    yield shown
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_section_is_drawn_and_nothing_is_asked_for(show: Any, width: int, scheme: str) -> None:
    shown = show(render_page(sample()), width, scheme)
    page = shown.page
    titles = ["1 warning", "Modules", "Modules and bridges", "Memory", "Pipeline", "Ranks", "Traffic"]
    assert page.locator("section h2").all_inner_texts() == titles
    assert page.locator("nav a").all_inner_texts() == titles
    assert page.locator(".gpu").count() == 8
    assert page.locator("#pipeline").bounding_box()["height"] > 100
    assert _colours(page) > 5
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    assert shown.complaints == []
    assert [url for url in shown.requests if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0


def _colours(page: Any) -> int:
    """The number of colours on the canvas, which is 1 if nothing was drawn."""
    count: int = page.evaluate(
        """() => {
          const canvas = document.getElementById("pipeline");
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          return new Set(new Uint32Array(data.buffer)).size;
        }"""
    )
    return count


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["vision_audio_8gpu", "llava_8gpu_colocated", "llama70b_1024gpu", "qwen35_vl_17rank"])
def test_the_pages_of_the_command_are_drawn_whole(show: Any, tmp_path: Path, name: str, scheme: str) -> None:
    """Predictions of real specs that fit or do not, with modules apart or on shared ranks, or without sizes."""
    file = tmp_path / "page.html"
    assert main(["report", str(EXAMPLE.parent / f"{name}.yaml"), "-o", str(file)]) == 0
    shown = show(file.read_text(encoding="utf-8"), scheme=scheme)
    page = shown.page
    predicted = name != "qwen35_vl_17rank"
    titles = page.locator("section h2").all_inner_texts()
    assert [title in titles for title in ("Memory", "Pipeline", "Traffic")] == [predicted, True, predicted]
    assert _colours(page) > 5
    page.locator("[data-rank='0']").hover()
    assert ("peak memory" in page.locator("#tip").inner_text()) == predicted
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    assert "NaN" not in page.locator("main").inner_text()
    assert shown.complaints == []
    assert [url for url in shown.requests if not url.startswith(("file:", "data:"))] == []


def test_hovering_shows_a_rank(show: Any) -> None:
    page = show(render_page(sample())).page
    assert page.locator("#tip").is_hidden()
    page.locator("[data-rank='3']").hover()
    assert page.locator("#tip").inner_text().split("\n") == [
        "rank 3, node 0",
        "language: stage 1 of 2, tp 1 of 2",
        "peak memory 42.8 GiB, 477 MiB too much",
    ]
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()


def test_the_keyboard_reaches_every_rank(show: Any) -> None:
    page = show(render_page(sample())).page
    page.locator("[data-rank='0']").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.rank") == "5"
    assert page.locator("#tip").inner_text().startswith("rank 5")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_the_timeline_zooms_and_pans(show: Any) -> None:
    page = show(render_page(sample())).page
    canvas = page.locator("#pipeline")
    canvas.scroll_into_view_if_needed()
    start, end = _view(page)
    assert (start, end) == (0, 10_000_000)
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 50)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    _until(page, "document.getElementById('pipeline').dataset.start > 0")
    zoomed = _view(page)
    assert zoomed[1] - zoomed[0] < 0.5 * end
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"] - 100, box["y"] + 50, steps=4)
    page.mouse.up()
    _until(page, f"document.getElementById('pipeline').dataset.start > {zoomed[0]}")
    panned = _view(page)
    assert panned[1] - panned[0] == pytest.approx(zoomed[1] - zoomed[0])
    canvas.focus()
    page.keyboard.press("0")
    _until(page, "document.getElementById('pipeline').dataset.start == 0")
    assert _view(page) == (0, end)
    page.keyboard.press("+")
    _until(page, "document.getElementById('pipeline').dataset.start > 0")
    assert _view(page)[1] < end
    page.get_by_role("button", name="Show the whole step").click()
    _until(page, "document.getElementById('pipeline').dataset.start == 0")


def _until(page: Any, condition: str) -> None:
    """Wait for the next frames. `page.wait_for_function` evaluates text in the page, which its policy forbids."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"never: {condition}")


def _view(page: Any) -> tuple[float, float]:
    data = page.evaluate("({...document.getElementById('pipeline').dataset})")
    return float(data["start"]), float(data["end"])


def test_hovering_the_timeline_names_passes_and_waits(show: Any) -> None:
    page = show(render_page(sample())).page
    canvas = page.locator("#pipeline")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    texts = set()
    for part in range(30, 100, 2):
        page.mouse.move(box["x"] + box["width"] * part / 100, box["y"] + 28 + 15)
        if page.locator("#tip").is_visible():
            texts.add(page.locator("#tip").inner_text())
    assert any("images stage 0, forward of microbatch" in text for text in texts)
    assert any("images stage 0 waits" in text and "for gradients of language stage 0" in text for text in texts)


def test_what_a_user_wrote_is_text_and_nothing_else(show: Any) -> None:
    hostile = "</script><script>document.title = 'broken'</script><img src=x onerror=alert(1)>"
    shown = show(render_page(attrs.evolve(sample(), title=hostile, notices=(Notice(hostile),))))
    assert shown.page.locator("h1").inner_text() == hostile
    assert shown.page.locator(".notices li").inner_text() == hostile
    assert shown.page.title().startswith("</script>")
    assert shown.page.locator("img").count() == 0
    assert shown.complaints == []


def test_a_large_world_is_shown_by_stage(show: Any) -> None:
    """The world has 68 stages on 131,072 GPUs."""
    shown = show(render_page(sample(BIG)))
    page = shown.page
    assert page.locator(".gpu").count() == 0
    assert page.locator(".stagebar button").count() == 68
    page.locator(".stagebar button").first.hover()
    assert "1,024 GPUs: ranks 0-1023" in page.locator("#tip").inner_text()
    page.get_by_label("Find rank").fill("90000")
    assert page.locator("output").inner_text().startswith("images stage 1; 16,384 GPUs: ranks 81920-98303")
    assert shown.complaints == []


def test_a_frame_of_a_hundred_thousand_operations_draws_pixels_and_not_operations(show: Any) -> None:
    """With 244 stages and 256 microbatches, calls of the canvas are counted per frame, in any view."""
    language = attrs.evolve(BIG.modules["language"], parallel=attrs.evolve(BIG.modules["language"].parallel, pp=240))
    spec = attrs.evolve(BIG, cluster=None, modules={**BIG.modules, "language": language})
    shown = show(render_page(sample(spec)))
    page = shown.page
    operations = page.evaluate("report.timeline.rows.reduce((sum, row) => sum + row.starts.length, 0)")
    assert operations == 244 * 2 * 256
    frames = page.evaluate(
        """async () => {
          let calls = 0;
          for (const name of ["fillRect", "fillText", "strokeRect", "drawImage", "putImageData"]) {
            const draw = timeline.context[name];
            timeline.context[name] = function (...where) { calls += 1; return draw.apply(this, where); };
          }
          const found = [];
          for (let at = 0; at < 60; at += 1) {
            if (at === 45) timeline.view.fit();
            else if (at < 30) timeline.view.zoom(1.25, timeline.tickAt(600));
            else timeline.view.pan((at % 2 ? 0.3 : -0.2) * timeline.view.span);
            await new Promise(requestAnimationFrame);
            calls = 0;
            timeline.draw();
            found.push(calls);
          }
          return found;
        }"""
    )
    assert 244 <= max(frames) < 8 * 244, frames  # not one per operation
    assert shown.complaints == []


def test_a_finger_points_by_tapping(show: Any) -> None:
    page = show(render_page(sample()), width=400, has_touch=True).page
    canvas = page.locator("#pipeline")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.touchscreen.tap(box["x"] + 0.7 * box["width"], box["y"] + 28 + 3 * 30 + 8)
    assert "language stage 1, " in page.locator("#tip").inner_text()
    assert _view(page) == (0, 10_000_000)


def test_the_critical_path_is_marked(show: Any) -> None:
    """A line in the colour of text is under each operation of the path, and under no other."""
    page = show(render_page(sample())).page
    lines = page.evaluate(
        """() => timeline.content.rows.map((row, at) => {
          const y = timeline.head + (at + 1) * timeline.rowHeight - timeline.gap / 2;
          return row.starts.map((start, index) => {
            const x = timeline.x((start + row.ends[index]) / 2);
            return [...timeline.context.getImageData(x, y, 1, 1).data].slice(0, 3).join() === rgb("--fg").join();
          });
        })"""
    )
    expected = sample().timeline
    assert expected is not None
    assert [[at for at, is_marked in enumerate(row) if is_marked] for row in lines] == [
        sorted(row.critical) for row in expected.rows
    ]
    assert any(lines[0])
    assert not all(lines[0])


def test_a_rank_can_be_found(show: Any) -> None:
    page = show(render_page(sample())).page
    field = page.get_by_label("Find rank")
    field.fill("6")
    assert page.locator(".found").get_attribute("data-rank") == "6"
    assert page.locator("output").inner_text().startswith("rank 6, node 0; audio: lane 0 of 2")
    field.fill("8")
    assert page.locator(".found").count() == 0
    assert page.locator("output").inner_text() == "ranks are 0 to 7"


def test_arrows_move_as_the_map_is_laid_out(show: Any) -> None:
    spec = attrs.evolve(load_spec(EXAMPLE), cluster=Cluster(gpus_per_node=4))
    page = show(render_page(sample(spec)), width=400).page
    page.locator("[data-rank='2']").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.rank") == "6"
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.dataset.rank") == "0"
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.dataset.rank") == "0"


def _with_many_bars(report: Report) -> Report:
    assert report.memory is not None
    bars = tuple(attrs.evolve(report.memory.bars[0], where=f"language stage {stage}") for stage in range(60))
    return attrs.evolve(report, memory=attrs.evolve(report.memory, bars=bars))


def test_many_bars_of_memory_become_columns(show: Any) -> None:
    page = show(render_page(_with_many_bars(sample()))).page
    assert page.locator(".bar").count() == 0
    assert page.locator(".column").count() == 60
    assert page.locator("#memory").bounding_box()["height"] < 500
    page.locator(".column").nth(7).hover()
    assert page.locator("#tip").inner_text().startswith("language stage 7, ")


@pytest.mark.parametrize("name", ["llava_8gpu_colocated", "vision_audio_64gpu", "tiny_4rank"])
def test_a_phone_scrolls_one_way(show: Any, tmp_path: Path, name: str) -> None:
    """It does even if names are as long as they may be."""
    spec, file = tmp_path / "spec.yaml", tmp_path / "page.html"
    text = (EXAMPLE.parent / f"{name}.yaml").read_text()
    spec.write_text(text.replace("images", "a_very_long_module_name_that_somebody_wrote_with_great_care_64_L"))
    assert main(["report", str(spec), "-o", str(file)]) == 0
    page = show(file.read_text(encoding="utf-8"), width=360).page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll:not(.graph)')].every((one) => one.scrollWidth <= one.clientWidth)"
    )


def test_paper_is_light_whatever_the_theme(show: Any) -> None:
    page = show(render_page(sample()), scheme="dark").page
    page.emulate_media(media="print")
    _until(page, "getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)'")
    corner = "document.getElementById('pipeline').getContext('2d').getImageData(3, 3, 1, 1).data"
    _until(page, f"[...{corner}].join() === '255,255,255,255'")
    assert page.locator(".tools").first.is_hidden()
    assert len(page.pdf()) > 10_000


def test_nodes_of_any_size_are_drawn(show: Any) -> None:
    spec = attrs.evolve(
        BIG, batch=attrs.evolve(BIG.batch, global_size=8, micro_size=8), cluster=Cluster(gpus_per_node=16)
    )
    small = {
        name: attrs.evolve(m, parallel=attrs.evolve(m.parallel, pp=2, dp=8, tp=2)) for name, m in spec.modules.items()
    }
    plan = compile_spec(attrs.evolve(spec, modules=small))
    page = show(render_page(sample(plan=plan))).page
    assert page.locator(".gpu").count() == plan.world_size == 64
    assert page.locator(".node").count() == 4
