// The sections in order, and what changes with the window, the theme and the printer.

drawOverview(); // first what is asked first: does it fit, how long is a step, what limits it
drawGraph();
drawMemory();
const timeline = drawTimeline();
drawRanks();
drawTraffic();
byId("contents").append(...sections.map(([id, title]) => el("a", { href: `#${id}` }, title)));

/** @param {string} which a selector */
const details = (which) => /** @type {NodeListOf<HTMLDetailsElement>} */ (document.querySelectorAll(`details${which}`));
addEventListener("beforeprint", () => details(":not([open])").forEach((one) => { one.open = true; one.dataset.printed = ""; }));
addEventListener("afterprint", () => details("[data-printed]").forEach((one) => {
  one.open = false;
  delete one.dataset.printed;
}));

if (timeline) {
  const redraw = () => { timeline.readColours(); timeline.resize(); };
  new ResizeObserver(() => { if (timeline.canvas.clientWidth !== timeline.width) timeline.resize(); }).observe(timeline.canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw);
}
