// The pipeline of one step on a canvas: zoom, pan, hover. Operations narrower than a pixel are drawn together.

class TimelineDrawing {
  constructor(content, canvas) {
    this.content = content;
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.view = new View(content.makespan);
    this.showPath = false;
    this.critical = content.rows.map((row) => new Set(row.critical));
    this.rowHeight = Math.max(9, Math.min(30, Math.floor(900 / content.rows.length)));
    this.gap = this.rowHeight > 14 ? 3 : 1;
    this.head = 28;
    this.foot = 14;
    this.readColours();
    this.resize();
  }

  readColours() {
    const paper = rgb("--bg");
    this.colours = report.modules.map((_, index) => {
      const strong = rgb(`--m${index % NUM_COLOURS}`);
      return [mix(strong, paper, 0.5), strong].map((colour) => ({ fill: css(colour), text: readable(colour) }));
    });
    [this.paper, this.ink, this.muted, this.line, this.track] =
      ["--bg", "--fg", "--muted", "--line", "--track"].map((name) => css(rgb(name)));
  }

  resize() {
    this.width = this.canvas.clientWidth || 800;
    this.height = this.head + this.content.rows.length * this.rowHeight + this.foot;
    this.gutter = Math.round(Math.min(170, this.width * 0.3));
    const ratio = window.devicePixelRatio || 1;
    this.canvas.style.height = `${this.height}px`;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.draw();
  }

  get plotWidth() { return this.width - this.gutter - 10; }
  x(tick) { return this.gutter + ((tick - this.view.start) / this.view.span) * this.plotWidth; }
  tickAt(x) { return this.view.start + ((x - this.gutter) / this.plotWidth) * this.view.span; }

  draw() {
    const c = this.context;
    c.fillStyle = this.paper;
    c.fillRect(0, 0, this.width, this.height);
    this.drawAxis(c);
    c.save();
    c.beginPath();
    c.rect(this.gutter, 0, this.plotWidth + 1, this.height);
    c.clip();
    this.content.rows.forEach((row, at) => this.drawRow(c, row, at));
    c.restore();
    this.drawNames(c);
    this.drawWindow(c);
    this.canvas.dataset.start = this.view.start;
    this.canvas.dataset.end = this.view.end;
  }

  drawAxis(c) {
    const tick = this.content.tick;
    const values = roundValues(this.view.start * tick, this.view.end * tick, Math.max(2, this.plotWidth / 110));
    c.font = "12px system-ui, sans-serif";
    c.textBaseline = "middle";
    c.textAlign = "center";
    for (const value of values) {
      const x = this.x(value / tick);
      c.strokeStyle = this.line;
      c.beginPath();
      c.moveTo(x, this.head - 6);
      c.lineTo(x, this.height - this.foot);
      c.stroke();
      c.fillStyle = this.muted;
      const half = c.measureText(time(value, this.content.makespan * tick)).width / 2;
      c.fillText(time(value, this.content.makespan * tick), Math.min(Math.max(x, this.gutter + half - 4), this.width - half - 4), 13);
    }
  }

  drawRow(c, row, at) {
    const top = this.head + at * this.rowHeight + this.gap / 2;
    const height = this.rowHeight - this.gap;
    c.font = `600 ${Math.min(12, height - 4)}px system-ui, sans-serif`;
    c.textAlign = "center";
    c.textBaseline = "middle";
    let index = firstAbove(row.ends, this.view.start);
    while (index < row.starts.length && row.starts[index] < this.view.end) {
      const [x, right] = [this.x(row.starts[index]), this.x(row.ends[index])];
      const colour = this.colours[row.modules[index]][row.backward[index]];
      c.globalAlpha = this.showPath && !this.critical[at].has(index) ? 0.22 : 1;
      c.fillStyle = colour.fill;
      if (right - x >= 1) {
        c.fillRect(x, top, Math.max(1, right - x - (right - x > 4 ? 1 : 0)), height);
        this.drawNumber(c, row, index, x, right, top, height, colour);
        index += 1;
      } else { // everything that ends within this pixel
        c.fillRect(x, top, 1, height);
        index = Math.max(index + 1, firstAbove(row.ends, this.tickAt(x + 1)));
      }
    }
    c.globalAlpha = 1;
  }

  drawNumber(c, row, index, x, right, top, height, colour) {
    if (right - x < 20 || height < 13) return;
    const [from, to] = [Math.max(x, this.gutter), Math.min(right, this.width - 10)];
    c.fillStyle = colour.text;
    if (to - from > 16) c.fillText(row.microbatches[index], (from + to) / 2, top + height / 2 + 0.5);
  }

  drawNames(c) {
    const every = Math.ceil(13 / this.rowHeight);
    c.textAlign = "left";
    c.textBaseline = "middle";
    c.font = `${Math.min(13, Math.max(9, this.rowHeight * every - 2))}px system-ui, sans-serif`;
    this.content.rows.forEach((row, at) => {
      const top = this.head + at * this.rowHeight;
      c.fillStyle = this.colours[row.modules[0]][1].fill;
      c.fillRect(8, top + this.gap / 2, 4, this.rowHeight - this.gap);
      if (at % every) return;
      c.fillStyle = this.ink;
      c.fillText(this.shortened(c, row.name), 18, top + this.rowHeight / 2);
    });
  }

  shortened(c, text) {
    const room = this.gutter - 26;
    if (c.measureText(text).width <= room) return text;
    const short = text.replaceAll(" stage ", " ");
    for (let length = short.length; length > 1; length -= 1) {
      const cut = length === short.length ? short : short.includes("+") ? `${short.slice(0, length - 1)}…` : `${short.slice(0, length - 3)}…${short.slice(-2)}`;
      if (c.measureText(cut).width <= room) return cut;
    }
    return "";
  }

  /** Which part of the step is shown, along the lower edge. */
  drawWindow(c) {
    const y = this.height - 8;
    c.fillStyle = this.track;
    c.fillRect(this.gutter, y, this.plotWidth, 4);
    c.fillStyle = this.muted;
    const scale = this.plotWidth / this.view.length;
    c.fillRect(this.gutter + this.view.start * scale, y, Math.max(3, this.view.span * scale), 4);
  }

  /** What is under a point of the canvas, as lines for the tooltip; null for nothing. */
  lines(x, y) {
    const at = Math.floor((y - this.head) / this.rowHeight);
    const row = this.content.rows[at];
    if (!row || x < this.gutter) return row ? [row.name, `${row.ranks}`, ...row.waits.map((w) => `waits ${w}`)] : null;
    const tick = this.tickAt(x);
    const index = firstAbove(row.ends, tick);
    const scale = this.content.makespan * this.content.tick;
    const instant = (ticks) => time(ticks * this.content.tick, scale);
    const long = (ticks) => time(ticks * this.content.tick);
    if (index === row.starts.length) return [row.name, "has ended its step"];
    const free = index ? row.ends[index - 1] : 0;
    const reason = row.reasons[index] >= 0 ? this.content.reasons[row.reasons[index]] : null;
    const place = `${moduleName(row.modules[index])} stage ${row.stages[index]}`;
    if (tick < row.starts[index]) return [`${place} waits ${long(row.starts[index] - free)}`, reason ? `for ${reason}` : ""];
    const way = row.backward[index] ? "backward" : "forward";
    return [`${place}, ${way} of microbatch ${row.microbatches[index]}`,
      `${long(row.ends[index] - row.starts[index])}, from ${instant(row.starts[index])} to ${instant(row.ends[index])}`,
      row.ranks, ...(this.critical[at].has(index) ? ["on the critical path"] : [])];
  }

  zoom(factor, x) {
    this.view.zoom(factor, x === undefined ? (this.view.start + this.view.end) / 2 : this.tickAt(x));
    this.schedule();
  }

  pan(part) { this.view.pan(part * this.view.span); this.schedule(); }
  fit() { this.view.fit(); this.schedule(); }

  schedule() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => { this.pending = 0; this.draw(); });
  }
}

function drawTimeline() {
  const content = report.timeline;
  if (!content) return;
  const canvas = el("canvas", { id: "pipeline", tabindex: 0, role: "img",
    "aria-label": `Timeline of ${content.rows.length} pipeline stages. Plus and minus zoom, arrow keys pan, 0 shows all. The same in numbers is in the table below.` });
  const path = el("input", { type: "checkbox", id: "critical" });
  const button = (text, label, act) => el("button", { type: "button", "aria-label": label, onclick: act }, text);
  const tools = el("div", { class: "tools" },
    button("+", "Zoom in", () => drawing.zoom(1.6)), button("−", "Zoom out", () => drawing.zoom(1 / 1.6)),
    button("Show all", "Show the whole step", () => drawing.fit()),
    el("label", {}, path, "critical path only"),
    el("span", { class: "hint" }, "Ctrl + wheel zooms, dragging pans; + − ← → 0 with the keyboard."));
  const lead = content.is_predicted ?
    `One optimizer step up to the last backward pass: ${time(content.makespan * content.tick)}, of which the GPUs compute nothing for ${(100 * content.bubble).toFixed(1)} %.` :
    "The order of one optimizer step, not a prediction of its time: each forward pass takes 1, each backward pass 2, transfers take none.";
  const left = content.num_left_out ? ` ${plural(content.num_left_out, "stage")} between those shown are left out.` : "";
  section("timeline", "Pipeline", lead + left + " Pale is forward, strong is backward, the number is the microbatch.", moduleLegend(), tools, canvas,
    content.path.length ? el("p", { class: "lead", style: "margin:18px 0 0" }, "What the critical path consists of:") : null,
    content.path.length ? el("ul", { class: "path" }, content.path.map((text) => el("li", {}, text))) : null,
    stageTable(content));
  const drawing = new TimelineDrawing(content, canvas);
  path.addEventListener("change", () => { drawing.showPath = path.checked; drawing.draw(); });
  listen(drawing, canvas);
  return drawing;
}

function stageTable(content) {
  const made = table("Per stage. In flight: microbatches whose activations it holds at its fullest.",
    ["stage", "#GPUs", "#busy", "#in flight", "longest waits"], content.rows.map((row) =>
    [chip(row.name, moduleColour(row.modules[0])), row.num_ranks.toLocaleString("en"), `${(100 * row.busy).toFixed(1)} %`,
      String(row.in_flight), row.waits.map((text) => el("div", {}, text))]));
  made.classList.add("rows");
  made.tabIndex = 0;
  return made;
}

function listen(drawing, canvas) {
  const inside = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  const fingers = new Map();
  let last = null;
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
    event.preventDefault();
    hideTip();
    if (event.ctrlKey || event.metaKey) drawing.zoom(Math.exp(-event.deltaY * 0.004), inside(event)[0]);
    else drawing.pan(event.deltaX / drawing.plotWidth);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event.clientX);
    canvas.setPointerCapture(event.pointerId);
    last = event.clientX;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (fingers.size === 2) {
      const before = Math.abs([...fingers.values()].reduce((a, b) => a - b));
      fingers.set(event.pointerId, event.clientX);
      const [one, other] = [...fingers.values()];
      const box = canvas.getBoundingClientRect();
      if (before > 8) drawing.zoom(Math.abs(one - other) / before || 1, (one + other) / 2 - box.left);
    } else if (fingers.size === 1) {
      canvas.classList.add("dragging");
      hideTip();
      drawing.pan((last - event.clientX) / drawing.plotWidth);
      fingers.set(event.pointerId, event.clientX);
      last = event.clientX;
    } else {
      const lines = drawing.lines(...inside(event));
      if (lines) showTip(lines.filter(Boolean), event.clientX, event.clientY);
      else hideTip();
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => { fingers.delete(event.pointerId); canvas.classList.remove("dragging"); last = [...fingers.values()][0]; });
  }
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("keydown", (event) => {
    const act = { "+": () => drawing.zoom(1.6), "=": () => drawing.zoom(1.6), "-": () => drawing.zoom(1 / 1.6), 0: () => drawing.fit(),
      ArrowLeft: () => drawing.pan(-0.15), ArrowRight: () => drawing.pan(0.15) }[event.key];
    if (!act || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    hideTip();
    act();
  });
}
