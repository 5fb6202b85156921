// The sections in order, and what changes with the window, the theme and the printer.

drawOverview();
drawRanks();
drawGraph();
drawMemory();
const timeline = drawTimeline();
drawTraffic();
document.getElementById("contents").append(...sections.map(([id, title]) => el("a", { href: `#${id}` }, title)));

if (timeline) {
  const redraw = () => { timeline.readColours(); timeline.resize(); };
  new ResizeObserver(() => { if (timeline.canvas.clientWidth !== timeline.width) timeline.resize(); }).observe(timeline.canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw);
}
