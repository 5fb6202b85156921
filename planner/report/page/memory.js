// Peak memory of each kind of ranks beside what the GPU has: horizontal bars, or columns if there are many kinds.

const MANY_BARS = 24;
const LABELLED = 13; // per cent of the width that a part needs to show its number

/** @param {Content.MemoryBar} bar */
const sumOf = (bar) => bar.parts.reduce((sum, part) => sum + part.bytes, 0);
/**
 * Bytes above what the GPU has; 0 if the bar fits, or if no GPU is named.
 * @param {Content.MemoryBar} bar
 */
const excessOf = (bar) => Math.max(0, sumOf(bar) - (report.memory?.limit ?? Infinity));
/** @param {Content.MemoryBar} bar */
const isTooMuch = (bar) => excessOf(bar) > 0;

/** @param {string[]} names */
const keyOf = (names) => names.sort().join();
const barsByStages = new Map((report.memory?.bars ?? []).map((bar) => [keyOf(bar.where.split(" + ")), bar]));
/**
 * The bar of the ranks that hold exactly these stages; undefined if there is none.
 * @param {{module: number, stage: number}[]} places
 */
const barOf = (places) => barsByStages.get(keyOf(places.map((place) => `${moduleName(place.module)} stage ${place.stage}`)));

/**
 * `peak memory 117 GiB, 38.3 GiB too much`
 * @param {Content.MemoryBar} bar
 */
function peakInWords(bar) {
  const over = isTooMuch(bar) ? `, ${bytes(excessOf(bar))} too much` : "";
  return `peak memory ${bytes(sumOf(bar))}${over}`;
}

function drawMemory() {
  if (!report.memory) return;
  const { bars, limit, gpu } = report.memory;
  const names = [...new Set(bars.flatMap((bar) => bar.parts.map((part) => part.name)))];
  const styles = names.map((name, at) => ({ name, colour: `var(--p${at})`, text: `var(--q${at})`,
    used: bars.some((bar) => bar.parts.some((part) => part.name === name && part.bytes > 0)) }));
  const full = bars.filter(isTooMuch).reduce((sum, bar) => sum + bar.num_ranks, 0);
  const total = bars.reduce((sum, bar) => sum + bar.num_ranks, 0);
  const verdict = full ? ` ${full.toLocaleString("en")} of ${plural(total, "GPU")} would need more.` : "";
  const lead = limit === null ? "Peak per GPU; the spec names no GPU to compare it with." :
    `Peak per GPU. The dashed line is what one ${gpu} has: ${bytes(limit)}.${verdict}`;
  const draw = bars.length > MANY_BARS ? memoryColumns : memoryBars;
  section("memory", "Memory", lead, el("ul", { class: "legend" },
    styles.filter((one) => one.used).map((one) => el("li", {}, chip(one.name, one.colour)))),
  draw(bars, styles, limit, 1.04 * Math.max(limit || 0, ...bars.map(sumOf))));
}

/**
 * What a bar says when it is pointed at.
 * @param {Content.MemoryBar} bar
 */
function memoryLines(bar) {
  return [`${bar.where}, ${plural(bar.num_ranks, "GPU")}`, peakInWords(bar),
    ...bar.parts.filter((part) => part.bytes).map((part) => `${part.name} ${bytes(part.bytes)}`)];
}

/**
 * The parts of a bar along one side, each with its share of `scale`.
 * @param {Content.MemoryBar} bar
 * @param {PartStyle[]} styles in the order of the parts, which all bars share
 * @param {number} scale
 * @param {"width" | "height"} side
 * @param {boolean} isLabelled
 */
const memoryParts = (bar, styles, scale, side, isLabelled) => bar.parts.map((part, at) => {
  const { colour, text } = styles[at];
  const share = (100 * part.bytes) / scale;
  return el("i", { style: `${side}:${share}%`, "--c": colour, "--text": text }, isLabelled && share > LABELLED ? bytes(part.bytes) : "");
});

/**
 * @param {Content.MemoryBar[]} bars
 * @param {PartStyle[]} styles
 * @param {number | null} limit
 * @param {number} scale
 */
function memoryBars(bars, styles, limit, scale) {
  const drawn = bars.map((bar) => {
    const made = el("div", { class: "bar", role: "img", "aria-label": memoryLines(bar).join("; ") },
      memoryParts(bar, styles, scale, "width", true),
      limit === null ? null : el("span", { class: "limit", style: `left:${(100 * limit) / scale}%` }));
    tipFor(made, () => memoryLines(bar));
    return made;
  });
  moveWithArrows(drawn);
  return el("div", { class: "bars" }, bars.flatMap((bar, at) => [
    el("div", { class: "where" }, chip(bar.where, moduleColour(bar.module)), el("small", {}, plural(bar.num_ranks, "GPU"))),
    drawn[at],
    el("div", { class: isTooMuch(bar) ? "total over" : "total" }, bytes(sumOf(bar)),
      isTooMuch(bar) ? el("small", {}, `▲ ${bytes(excessOf(bar))} too much`) : null)]));
}

/**
 * One column per kind of ranks, modules side by side.
 * @param {Content.MemoryBar[]} bars
 * @param {PartStyle[]} styles
 * @param {number | null} limit
 * @param {number} scale
 */
function memoryColumns(bars, styles, limit, scale) {
  const drawn = bars.map((bar) => {
    const made = el("div", { class: "column", role: "img", "aria-label": memoryLines(bar).join("; ") },
      memoryParts(bar, styles, scale, "height", false));
    tipFor(made, () => memoryLines(bar));
    return made;
  });
  moveWithArrows(drawn);
  const modules = [...new Set(bars.map((bar) => bar.module))].map((module) => {
    const own = drawn.filter((_, at) => bars[at].module === module);
    return el("div", { class: "of", style: `flex:${own.length} 1 ${3 * own.length}px` }, el("div", { class: "area" }, own),
      el("div", { class: "name" }, chip(moduleName(module), moduleColour(module))));
  });
  return el("div", { class: "scroll" }, el("div", { class: "columns" }, modules,
    limit === null ? null : el("div", { class: "line" }, el("span", { class: "limit", style: `bottom:${(100 * limit) / scale}%` },
      el("b", {}, bytes(limit))))));
}
