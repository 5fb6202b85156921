// The rank map: every GPU by node, or every stage if there are too many GPUs.

const DENSE = 256; // more GPUs than this are drawn as small cells

/**
 * `language: stage 1 of 2, tp 0 of 4`: the axes on which the module has more than one coord.
 * @param {Content.Place} place
 */
function placeInWords(place) {
  const sizes = /** @type {[keyof Content.Sizes, number][]} */ (Object.entries(report.modules[place.module].sizes));
  const coords = sizes.filter(([, size]) => size > 1).map(([axis, size]) => `${axis} ${place[axis]} of ${size}`);
  return [moduleName(place.module), coords.join(", ")].filter(Boolean).join(": ");
}

function drawRanks() {
  if (report.nodes.length) drawNodes();
  else drawStages();
}

function drawNodes() {
  const isDense = report.num_ranks > DENSE;
  const found = report.nodes.flatMap((node) => node.cells.map((cell) => drawCell(node, cell, isDense)));
  const nodes = report.nodes.map((node) => {
    const ranks = node.cells.map((cell) => cell.rank);
    const name = node.name.startsWith("node") ?
      [el("b", {}, node.name), ` ${isDense ? "" : "ranks "}${ranks[0]}–${ranks.at(-1)}`] : node.name;
    return el("div", { class: "node" }, el("h3", {}, name), el("div", { class: "gpus" },
      ranks.map((rank) => found[rank].made)));
  });
  moveWithArrows(found.map((one) => one.made));
  section("ranks", "Ranks", `Every GPU by node. The colour shows the module, and the number ${isDense ? "" : "in it "}the pipeline ` +
    "stage. Hover, or tab to the map and use the arrow keys, to see a rank's place on every axis.",
    rankLegend(), rankFinder((rank) => (found[rank] ? [found[rank]] : [])),
    el("div", { class: `nodes ${isDense ? "dense" : ""} ${report.modules.some((module) => module.sizes.stage > 100) ? "wide" : ""}` },
      nodes));
}

/**
 * @param {Content.NodeRow} node
 * @param {Content.Cell} cell
 * @param {boolean} isDense
 * @returns {Drawn}
 */
function drawCell(node, cell, isDense) {
  const bar = barOf(cell.places);
  const lines = [`rank ${cell.rank}, ${node.name}`, ...cell.places.map(placeInWords), ...(bar ? [peakInWords(bar)] : [])];
  const bands = cell.places.map((place) => el("i", { "--c": moduleColour(place.module), "--text": textOnColour(place.module) },
    String(place.stage)));
  const made = el("button", { class: bar && isTooMuch(bar) ? "gpu over" : "gpu", type: "button", "data-rank": cell.rank,
    "aria-label": lines.join("; ") }, isDense ? null : el("b", {}, String(cell.rank)), el("span", { class: "bands" }, bands));
  tipFor(made, () => lines);
  return { made, lines };
}

function drawStages() {
  /** @type {DrawnStage[]} */
  const found = [];
  const blocks = report.modules.flatMap((module, index) => {
    const stages = report.stages.filter((stage) => stage.module === index).map((stage) => drawStage(module, index, stage));
    found.push(...stages);
    return [el("div", {}, chip(`${module.name}, ${plural(module.num_ranks, "GPU")}`, moduleColour(index))),
      el("div", { class: "stagebar" }, stages.map((one) => one.made))];
  });
  moveWithArrows(found.map((one) => one.made));
  section("ranks", "Ranks", "By module and pipeline stage, as there are too many GPUs to draw each. The number is the stage. " +
    "Hover, or tab to the bars and use the arrow keys, to see its ranks and nodes.", rankLegend(),
    rankFinder((rank) => found.filter((one) => one.runs.some(([first, last]) => first <= rank && rank <= last))), ...blocks);
}

/**
 * @param {Content.ModuleRow} module
 * @param {number} index
 * @param {Content.StageRow} stage
 * @returns {DrawnStage}
 */
function drawStage(module, index, stage) {
  const bar = barOf([{ module: index, stage: stage.stage }]);
  const lines = [`${module.name} stage ${stage.stage}`, `${plural(stage.num_ranks, "GPU")}: ranks ${stage.ranks}`,
    ...(stage.nodes ? [`nodes ${stage.nodes}`] : []), ...(bar ? [peakInWords(bar)] : [])];
  const made = el("button", { type: "button", class: bar && isTooMuch(bar) ? "over" : null, "aria-label": lines.join("; "),
    "--c": moduleColour(index), "--text": textOnColour(index) }, String(stage.stage));
  tipFor(made, () => lines);
  return { made, lines, runs: stage.runs };
}

function rankLegend() {
  const legend = moduleLegend();
  if (report.memory?.bars.some(isTooMuch)) {
    legend.append(el("li", {}, el("span", { class: "chip full" }, "needs more memory than it has")));
  }
  return legend;
}

/**
 * A field that shows where a rank is.
 * @param {(rank: number) => Drawn[]} find what is drawn for a rank: several stages if modules share ranks
 */
function rankFinder(find) {
  const most = report.num_ranks - 1;
  const answer = el("output", { for: "find" });
  const field = el("input", { id: "find", type: "number", min: 0, max: most, inputmode: "numeric", placeholder: `0–${most}` });
  field.addEventListener("input", () => {
    document.querySelectorAll(".found").forEach((one) => one.classList.remove("found"));
    const hits = /^\d+$/.test(field.value) ? find(Number(field.value)) : [];
    hits.forEach((one) => one.made.classList.add("found"));
    if (hits.length) hits[0].made.scrollIntoView({ block: "nearest" });
    answer.textContent = hits.length ? hits.map((one) => one.lines.join("; ")).join(" | ") :
      field.value === "" ? "" : `ranks are 0 to ${most}`;
  });
  return el("div", { class: "tools" }, el("label", { for: "find" }, "Find rank"), field, answer);
}
