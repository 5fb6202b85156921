// Peak memory of each kind of ranks, beside what the GPU has.

const NUM_PARTS = 7;

function drawMemory() {
  if (!report.memory) return;
  const { bars, limit, gpu } = report.memory;
  const names = [...new Set(bars.flatMap((bar) => bar.parts.map((part) => part.name)))];
  const colour = (name) => `var(--p${names.indexOf(name) % NUM_PARTS})`;
  const total = (bar) => bar.parts.reduce((sum, part) => sum + part.bytes, 0);
  const scale = 1.04 * Math.max(limit || 0, ...bars.map(total));
  const share = (count) => `${(100 * count) / scale}%`;
  const rows = bars.flatMap((bar) => {
    const over = limit !== null && total(bar) > limit;
    const words = bar.parts.map((part) => `${part.name} ${bytes(part.bytes)}`);
    const drawn = el("div", { class: "bar", tabindex: 0, role: "img", "aria-label": `${bar.where}: ${words.join(", ")}` },
      bar.parts.map((part) => el("i", { style: `width:${share(part.bytes)}`, "--c": colour(part.name) })),
      limit === null ? null : el("span", { class: "limit", style: `left:${share(limit)}` }));
    tipFor(drawn, () => [`${bar.where}: ${bytes(total(bar))}`, ...words]);
    return [el("div", { class: "where" }, chip(bar.where, moduleColour(bar.module)), el("small", {}, plural(bar.num_ranks, "GPU"))),
      drawn, el("div", { class: over ? "total over" : "total" }, over ? `${bytes(total(bar))} ▲ too much` : bytes(total(bar)))];
  });
  section("memory", "Memory", limit === null ? "Peak per GPU; the spec does not name one to compare with." :
    `Peak per GPU. The dashed line is what one ${gpu} has: ${bytes(limit)}.`,
    el("ul", { class: "legend" }, names.map((name) => el("li", {}, chip(name, colour(name))))), el("div", { class: "bars" }, rows));
}
