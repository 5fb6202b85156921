// The DAG of modules and the bridges on its edges.

const BOX = { width: 236, height: 78, across: 150, down: 30, margin: 12 };

/** Per module, the number of edges on the longest path that ends at it. */
function layers() {
  const depth = report.modules.map(() => 0);
  for (let round = 0; round < report.modules.length; round += 1) {
    for (const edge of report.edges) depth[edge.dst] = Math.max(depth[edge.dst], depth[edge.src] + 1);
  }
  return depth;
}

function drawGraph() {
  if (!report.edges.length) return;
  const depth = layers();
  const columns = [...Array(Math.max(...depth) + 1).keys()].map((at) =>
    report.modules.map((_, index) => index).filter((index) => depth[index] === at));
  const tallest = Math.max(...columns.map((column) => column.length));
  const over = report.edges.some((edge) => depth[edge.dst] - depth[edge.src] > 1) ? 64 : 0; // room for edges that skip a column
  const height = tallest * (BOX.height + BOX.down) - BOX.down + 2 * BOX.margin + over;
  const width = columns.length * (BOX.width + BOX.across) - BOX.across + 2 * BOX.margin;
  /** @type {number[][]} */
  const at = [];
  columns.forEach((column, x) => column.forEach((index, y) => {
    const used = column.length * (BOX.height + BOX.down) - BOX.down;
    at[index] = [BOX.margin + x * (BOX.width + BOX.across), (height + over - used) / 2 + y * (BOX.height + BOX.down)];
  }));
  const drawing = svg("svg", { style: `--full:${width}px`, viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": report.edges.map((edge) => `${moduleName(edge.src)} feeds ${moduleName(edge.dst)}: ${edge.ratio}`).join("; ") });
  const marker = svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
    svg("path", { d: "M0 0L8 4L0 8z", fill: "context-stroke" }));
  drawing.append(svg("defs", {}, marker));
  const labels = report.edges.map((edge) => drawEdge(drawing, edge, at, depth));
  report.modules.forEach((module, index) => drawBox(drawing, module, index, at[index]));
  drawing.append(...labels);
  section("bridges", "Modules and bridges", "What feeds what. Each bridge cuts the microbatch into the blocks of the lanes on " +
    "either side; a lane is one data-parallel replica.", el("div", { class: "graph scroll", tabindex: 0, role: "group",
    "aria-label": "Graph of modules" }, drawing), report.edges.map((edge) => el("details", {},
    el("summary", {}, `${moduleName(edge.src)} → ${moduleName(edge.dst)}: ${edge.ratio}`), el("pre", {}, edge.lines.join("\n")))));
}

/**
 * Draw an edge, and return its label, which is to be drawn above everything else.
 * @param {SVGSVGElement} drawing
 * @param {Content.EdgeRow} edge
 * @param {number[][]} at left and upper side of each module's box
 * @param {number[]} depth column of each module
 */
function drawEdge(drawing, edge, at, depth) {
  const [x1, y1] = [at[edge.src][0] + BOX.width, at[edge.src][1] + BOX.height / 2];
  const [x2, y2] = [at[edge.dst][0], at[edge.dst][1] + BOX.height / 2];
  const skips = depth[edge.dst] - depth[edge.src] > 1 ? -BOX.height : 0; // above what lies between
  const bend = BOX.across * 0.55;
  const path = svg("path", { class: "edge", "marker-end": "url(#arrow)",
    d: `M${x1} ${y1}C${x1 + bend} ${y1 + skips} ${x2 - bend} ${y2 + skips} ${x2 - 2} ${y2}` });
  path.style.stroke = moduleColour(edge.src);
  drawing.append(path);
  const label = svg("text", { class: "label", x: (x1 + x2) / 2, y: (y1 + y2) / 2 + skips * 0.75 - 4 });
  const [first, ...rest] = edge.ratio.split(", ");
  label.append(...[first, rest.slice(0, 1).join(", ")].filter(Boolean).map((text, line) =>
    svg("tspan", { x: (x1 + x2) / 2, dy: line ? 15 : 0 }, text)));
  return label;
}

/**
 * @param {SVGSVGElement} drawing
 * @param {Content.ModuleRow} module
 * @param {number} index
 * @param {number[]} corner
 */
function drawBox(drawing, module, index, [x, y]) {
  const colour = svg("rect", { x, y, width: 6, height: BOX.height, rx: 3 });
  colour.style.fill = moduleColour(index);
  /** @type {(dy: number, kind: string, value: string, most: number) => SVGTextElement} */
  const text = (dy, kind, value, most) => svg("text", { x: x + 18, y: y + dy, class: kind },
    value.length > most ? `${value.slice(0, most - 1)}…` : value);
  drawing.append(svg("rect", { class: "box", x, y, width: BOX.width, height: BOX.height, rx: 8 }), colour,
    text(24, "name", module.name, 21), text(44, "small", `${plural(module.num_ranks, "GPU")} · ${module.axes}`, 33),
    text(62, "small", module.model, 33));
}
