// The rank map: every GPU by node, or every stage where there are too many GPUs.

const DENSE = 256; // GPUs, from which on cells are small

/** `language: stage 1 of 2, tp 0 of 4`: the axes that the module has more than one of. */
function placeInWords(place) {
  const coords = Object.entries(report.modules[place.module].sizes).filter(([, size]) => size > 1)
    .map(([axis, size]) => `${axis} ${place[axis]} of ${size}`);
  return [moduleName(place.module), coords.join(", ")].filter(Boolean).join(": ");
}

/** Of a rank that holds these stages, all of them together. */
function memoryOf(places) {
  const held = places.map((place) => `${moduleName(place.module)} stage ${place.stage}`).sort().join();
  const bar = report.memory && report.memory.bars.find((one) => one.where.split(" + ").sort().join() === held);
  return bar ? `peak memory ${bytes(bar.parts.reduce((sum, part) => sum + part.bytes, 0))}` : null;
}

function fill(places) {
  const colours = places.map((place) => moduleColour(place.module));
  if (colours.length === 1) return colours[0];
  const width = 100 / colours.length;
  return `linear-gradient(90deg, ${colours.map((c, at) => `${c} ${at * width}% ${(at + 1) * width}%`).join(", ")})`;
}

function drawRanks() {
  if (report.nodes.length) drawNodes();
  else drawStages();
}

function drawNodes() {
  const cells = [];
  const nodes = report.nodes.map((node) => el("div", { class: "node" }, el("h3", {}, node.name),
    el("div", { class: "gpus" }, node.cells.map((cell) => {
      const lines = [`rank ${cell.rank}, ${node.name}`, ...cell.places.map(placeInWords),
        memoryOf(cell.places)].filter(Boolean);
      const made = el("button", {
        class: "gpu", type: "button", "data-rank": cell.rank, "aria-label": lines.join("; "), "--fill": fill(cell.places),
        "--text": textOnColour(cell.places[0].module),
      }, cell.places.length === 1 ? String(cell.places[0].stage) : "");
      tipFor(made, () => lines);
      cells.push(made);
      return made;
    }))));
  moveWithArrows(cells, 8);
  section("ranks", "Ranks", "Every GPU by node. The colour is the module, the number its pipeline stage; hover, or tab to " +
    "the map and use the arrow keys, for the rank's place on every axis.",
    moduleLegend(), el("div", { class: cells.length > DENSE ? "nodes dense" : "nodes" }, nodes));
}

function drawStages() {
  const made = [];
  const blocks = report.modules.map((module, index) => {
    const stages = report.stages.filter((stage) => stage.module === index);
    const bars = stages.map((stage) => {
      const lines = [`${module.name} stage ${stage.stage}`, `${plural(stage.num_ranks, "GPU")}: ranks ${stage.ranks}`,
        stage.nodes ? `nodes ${stage.nodes}` : null, memoryOf([{ module: index, stage: stage.stage }])].filter(Boolean);
      const bar = el("button", { type: "button", "aria-label": lines.join("; "), "--c": moduleColour(index),
        "--text": textOnColour(index) }, String(stage.stage));
      tipFor(bar, () => lines);
      made.push(bar);
      return bar;
    });
    return [el("div", {}, chip(`${module.name}, ${plural(module.num_ranks, "GPU")}`, moduleColour(index))),
      el("div", { class: "stagebar" }, bars)];
  });
  moveWithArrows(made, 1);
  section("ranks", "Ranks", "By module and pipeline stage, as there are too many GPUs to draw each. The number is the stage; " +
    "hover, or tab to the bars and use the arrow keys, for its ranks and nodes.", ...blocks.flat());
}
