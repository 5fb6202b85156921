// The pipeline of one step on a canvas: zoom, pan, hover.

const NUMBERED = 20; // an operation of at least this width is drawn alone, with its microbatch
const MANY_ROWS = 16; // a table of more rows than this scrolls by itself
const NEAR = 6; // pixels that a finger may move and still only point
const OTHERS = 0.22; // strength of everything else while only the critical path is asked for

class TimelineDrawing {
  /** @type {[forward: Paint, backward: Paint][]} by module */
  colours = [];
  /** @type {Colour} */
  markColour = [];
  paper = "";
  ink = "";
  muted = "";
  line = "";
  track = "";
  width = 0;
  height = 0;
  gutter = 0;
  ratio = 1;
  pending = 0; // the frame that has been asked for, if any

  /**
   * @param {Content.TimelineContent} content
   * @param {HTMLCanvasElement} canvas
   */
  constructor(content, canvas) {
    this.content = content;
    this.canvas = canvas;
    this.context = contextOf(canvas);
    this.view = new View(content.makespan);
    this.showPath = false;
    this.critical = content.rows.map((row) => {
      const found = new Uint8Array(row.starts.length);
      for (const index of row.critical) found[index] = 1;
      return found;
    });
    this.rowHeight = Math.max(9, Math.min(30, Math.floor(900 / content.rows.length)));
    this.mark = this.rowHeight > 14 ? 3 : 2;
    this.gap = this.rowHeight > 14 ? 6 : 3; // between rows; holds the marks of the critical path
    this.strips = new Strips(content.rows.length);
    this.head = 28;
    this.foot = 14;
    this.readColours();
    this.resize();
  }

  readColours() {
    const paper = rgb("--bg");
    /** @type {(rgb: Colour) => Paint} */
    const paint = (rgb) => ({ rgb, fill: css(rgb), text: readable(rgb) });
    this.colours = report.modules.map((_, index) => {
      const strong = rgb(`--m${index % NUM_COLOURS}`);
      return [paint(mix(strong, paper, 0.5)), paint(strong)];
    });
    this.markColour = rgb("--fg");
    [this.paper, this.ink, this.muted, this.line, this.track] =
      ["--bg", "--fg", "--muted", "--line", "--track"].map((name) => css(rgb(name)));
  }

  resize() {
    this.width = this.canvas.clientWidth || 800;
    this.height = this.head + this.content.rows.length * this.rowHeight + this.foot;
    this.gutter = Math.round(Math.min(170, this.width * 0.3));
    this.ratio = window.devicePixelRatio || 1;
    this.canvas.style.height = `${this.height}px`;
    this.canvas.width = Math.round(this.width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    this.context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    this.draw();
  }

  get plotWidth() { return this.width - this.gutter - 10; }
  /** @param {number} tick */
  x(tick) { return this.gutter + ((tick - this.view.start) / this.view.span) * this.plotWidth; }
  /** @param {number} x */
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
    this.drawRows(c);
    c.restore();
    this.drawNames(c);
    this.drawWindow(c);
    this.canvas.dataset.start = String(this.view.start);
    this.canvas.dataset.end = String(this.view.end);
  }

  /** @param {CanvasRenderingContext2D} c */
  drawAxis(c) {
    const tick = this.content.tick;
    const [low, high] = [this.view.start * tick, this.view.end * tick];
    const step = roundStep(low, high, Math.max(3, this.plotWidth / 110));
    c.font = "12px system-ui, sans-serif";
    c.textBaseline = "middle";
    c.textAlign = "center";
    for (let at = Math.ceil(low / step); at * step <= high; at += 1) {
      const x = this.x((at * step) / tick);
      c.strokeStyle = this.line;
      c.beginPath();
      c.moveTo(x, this.head - 6);
      c.lineTo(x, this.height - this.foot);
      c.stroke();
      c.fillStyle = this.muted;
      const label = moment(at * step, this.content.makespan * tick, step);
      const half = c.measureText(label).width / 2;
      c.fillText(label, Math.min(Math.max(x, this.gutter + half - 4), this.width - half - 4), 13);
    }
  }

  /** @param {CanvasRenderingContext2D} c */
  drawRows(c) {
    const { strips, gap, mark, rowHeight } = this;
    const height = rowHeight - gap;
    c.font = `600 ${Math.min(12, height - 4)}px system-ui, sans-serif`;
    c.textAlign = "center";
    c.textBaseline = "middle";
    strips.begin(Math.round(this.plotWidth * this.ratio), this.markColour);
    const boxes = this.content.rows.map((row, at) => {
      const top = this.head + at * rowHeight + (gap - mark) / 2;
      this.drawRow(c, row, at, top, height);
      strips.close(at);
      return [top, height, mark];
    });
    c.globalAlpha = 1;
    strips.paint(c, this.gutter, this.plotWidth, boxes);
  }

  /**
   * @param {CanvasRenderingContext2D} c
   * @param {Content.TimelineRow} row
   * @param {number} at index of the row
   * @param {number} top
   * @param {number} height
   */
  drawRow(c, row, at, top, height) {
    const { start, span, end } = this.view;
    const perTick = this.strips.width / span;
    const alone = height < 13 ? Infinity : NUMBERED * this.ratio;
    for (let index = firstAbove(row.ends, start); index < row.starts.length && row.starts[index] < end; index += 1) {
      const [left, right] = [(row.starts[index] - start) * perTick, (row.ends[index] - start) * perTick];
      const colour = this.colours[row.modules[index]][row.backward[index]];
      const critical = this.critical[at][index];
      const strength = this.showPath && !critical ? OTHERS : 1;
      if (critical) this.strips.mark(at, left, right);
      if (right - left >= alone) {
        const [x, to] = [this.gutter + left / this.ratio, this.gutter + right / this.ratio];
        c.globalAlpha = strength;
        c.fillStyle = colour.fill;
        c.fillRect(x, top, to - x - 1, height);
        this.drawNumber(c, row.microbatches[index], x, to, top + height / 2 + 0.5, colour);
      } else {
        this.strips.cover(left, right - Math.min(this.ratio, 0.15 * (right - left)), colour.rgb, strength);
      }
    }
  }

  /**
   * @param {CanvasRenderingContext2D} c
   * @param {number} number
   * @param {number} x
   * @param {number} right
   * @param {number} middle
   * @param {Paint} colour
   */
  drawNumber(c, number, x, right, middle, colour) {
    const [from, to] = [Math.max(x, this.gutter), Math.min(right, this.width - 10)];
    c.fillStyle = colour.text;
    const text = String(number);
    if (to - from > 8 * text.length) c.fillText(text, (from + to) / 2, middle);
  }

  /** @param {CanvasRenderingContext2D} c */
  drawNames(c) {
    const every = Math.ceil(13 / this.rowHeight);
    c.textAlign = "left";
    c.textBaseline = "middle";
    c.font = `${Math.min(13, Math.max(9, this.rowHeight * every - 2))}px system-ui, sans-serif`;
    this.content.rows.forEach((row, at) => {
      const top = this.head + at * this.rowHeight;
      c.fillStyle = this.colours[row.modules[0]][1].fill;
      c.fillRect(8, top + (this.gap - this.mark) / 2, 4, this.rowHeight - this.gap);
      if (at % every) return;
      c.fillStyle = this.ink;
      c.fillText(this.shortened(c, row.name), 18, top + (this.rowHeight - this.mark) / 2);
    });
  }

  /**
   * As much of a name as the gutter has room for.
   * @param {CanvasRenderingContext2D} c
   * @param {string} text
   */
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

  /**
   * Which part of the step is shown, along the lower edge.
   * @param {CanvasRenderingContext2D} c
   */
  drawWindow(c) {
    const y = this.height - 8;
    c.fillStyle = this.track;
    c.fillRect(this.gutter, y, this.plotWidth, 4);
    c.fillStyle = this.muted;
    const scale = this.plotWidth / this.view.length;
    c.fillRect(this.gutter + this.view.start * scale, y, Math.max(3, this.view.span * scale), 4);
  }

  /**
   * What is under a point of the canvas, as lines for the tooltip; null if there is nothing.
   * @param {number} x
   * @param {number} y
   */
  lines(x, y) {
    const at = Math.floor((y - this.head) / this.rowHeight);
    const row = this.content.rows[at];
    if (!row || x < this.gutter) return row ? [row.name, `${row.ranks}`, ...row.waits.map((w) => `waits ${w}`)] : null;
    const tick = this.tickAt(x);
    const index = firstAbove(row.ends, tick);
    /** @param {number} ticks */
    const long = (ticks) => time(ticks * this.content.tick);
    const scale = this.content.makespan * this.content.tick;
    const length = (row.ends[index] - row.starts[index]) * this.content.tick;
    /** @param {number} ticks */
    const instant = (ticks) => moment(ticks * this.content.tick, scale, Math.min(scale, length || scale) / 100);
    if (index === row.starts.length) return [row.name, "has finished its step"];
    const free = index ? row.ends[index - 1] : 0;
    const reason = row.reasons[index] >= 0 ? this.content.reasons[row.reasons[index]] : null;
    const place = `${moduleName(row.modules[index])} stage ${row.stages[index]}`;
    if (tick < row.starts[index]) return [`${place} waits ${long(row.starts[index] - free)}`, reason ? `for ${reason}` : ""];
    const way = row.backward[index] ? "backward" : "forward";
    return [`${place}, ${way} of microbatch ${row.microbatches[index]}`,
      `${long(row.ends[index] - row.starts[index])}, from ${instant(row.starts[index])} to ${instant(row.ends[index])}`,
      row.ranks, ...(this.critical[at][index] ? ["on the critical path"] : [])];
  }

  /**
   * @param {number} factor above 1 to show less of the step, in more detail
   * @param {number} [x] what stays where it is; else the middle does
   */
  zoom(factor, x) {
    this.view.zoom(factor, x === undefined ? (this.view.start + this.view.end) / 2 : this.tickAt(x));
    this.schedule();
  }

  /** @param {number} part of what is shown */
  pan(part) { this.view.pan(part * this.view.span); this.schedule(); }
  fit() { this.view.fit(); this.schedule(); }

  schedule() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => { this.pending = 0; this.draw(); });
  }
}

function drawTimeline() {
  const content = report.timeline;
  if (!content) return null;
  const canvas = el("canvas", { id: "pipeline", tabindex: 0, role: "img",
    "aria-label": `Timeline of ${content.rows.length} pipeline stages. Plus and minus zoom, arrow keys pan, 0 shows all. The table below has the same in numbers.` });
  const path = el("input", { type: "checkbox", id: "critical" });
  /** @type {(text: string, label: string, act: () => void) => HTMLElement} */
  const button = (text, label, act) => el("button", { type: "button", "aria-label": label, onclick: act }, text);
  const tools = el("div", { class: "tools" },
    button("+", "Zoom in", () => drawing.zoom(1.6)), button("−", "Zoom out", () => drawing.zoom(1 / 1.6)),
    button("Show all", "Show the whole step", () => drawing.fit()),
    el("label", {}, path, "critical path only"),
    el("span", { class: "hint" }, "Ctrl + wheel zooms, dragging pans; + − ← → 0 with the keyboard."));
  const lead = content.is_predicted ?
    `One optimizer step up to the last backward pass takes ${time(content.makespan * content.tick)}; ${percent(content.bubble)} of all GPU time in it is idle.` :
    "The order of one optimizer step, not a prediction of its time: each forward pass takes 1, each backward pass 2, transfers take none.";
  const left = content.num_left_out ? ` ${plural(content.num_left_out, "stage")} between those shown are left out.` : "";
  section("timeline", "Pipeline", `${lead}${left} Numbers are microbatches; point at a gap to see what is waited for.`,
    timelineLegend(), tools, canvas,
    content.path.length ? el("p", { class: "lead", style: "margin:18px 0 0" }, "What the critical path consists of:") : null,
    content.path.length ? el("ul", { class: "path" }, content.path.map((text) => el("li", {}, text))) : null,
    stageTable(content));
  const drawing = new TimelineDrawing(content, canvas);
  path.addEventListener("change", () => { drawing.showPath = path.checked; drawing.draw(); });
  listen(drawing, canvas);
  return drawing;
}

function timelineLegend() {
  /** @type {(kind: string, text: string) => HTMLElement} */
  const sample = (kind, text) => el("li", {}, el("span", { class: `chip ${kind}`, "--c": moduleColour(0) }, text));
  const legend = moduleLegend();
  legend.append(sample("pale", "forward"), sample("", "backward"), sample("gap", "waiting"), sample("critical", "on the critical path"));
  return legend;
}

/** @param {Content.TimelineContent} content */
function stageTable(content) {
  const made = table("Per stage. In flight: the most microbatches whose activations it holds at once.",
    ["stage", "#GPUs", "#busy", "#in flight", "longest waits"], content.rows.map((row) =>
    [heading(chip(row.name, moduleColour(row.modules[0]))), row.num_ranks.toLocaleString("en"),
      metered(percent(row.busy), row.busy), String(row.in_flight), row.waits.map((text) => el("div", {}, text))]));
  if (content.rows.length > MANY_ROWS) {
    made.classList.add("tall");
    made.tabIndex = 0;
  }
  return made;
}

/**
 * @param {TimelineDrawing} drawing
 * @param {HTMLCanvasElement} canvas
 */
function listen(drawing, canvas) {
  /** @param {MouseEvent} event */
  const inside = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  /** @type {Map<number, number>} */
  const fingers = new Map(); // the x of each, by its id
  /** @param {MouseEvent} event */
  const point = (event) => {
    const { x, y } = inside(event);
    const lines = drawing.lines(x, y);
    if (lines) showTip(lines.filter(Boolean), event.clientX, event.clientY);
    else hideTip();
  };
  let last = 0;
  /** @type {number | null} */
  let from = null; // where the one finger came down, until it moves away
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
    event.preventDefault();
    hideTip();
    if (event.ctrlKey || event.metaKey) drawing.zoom(Math.exp(-event.deltaY * 0.004), inside(event).x);
    else drawing.pan(event.deltaX / drawing.plotWidth);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event.clientX);
    canvas.setPointerCapture(event.pointerId);
    last = event.clientX;
    from = fingers.size === 1 ? event.clientX : null;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (from !== null && Math.abs(event.clientX - from) < NEAR) return;
    from = null;
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
      point(event);
    }
  });
  /** @param {PointerEvent} event */
  const lifted = (event) => {
    fingers.delete(event.pointerId);
    canvas.classList.remove("dragging");
    last = [...fingers.values()][0] ?? last;
    from = null;
  };
  canvas.addEventListener("pointerup", (event) => {
    if (from !== null) point(event); // a tap: fingers have no hovering
    lifted(event);
  });
  canvas.addEventListener("pointercancel", lifted);
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hideTip(); });
  /** @type {Record<string, (() => void) | undefined>} */
  const acts = { "+": () => drawing.zoom(1.6), "=": () => drawing.zoom(1.6), "-": () => drawing.zoom(1 / 1.6), 0: () => drawing.fit(),
    ArrowLeft: () => drawing.pan(-0.15), ArrowRight: () => drawing.pan(0.15) };
  canvas.addEventListener("keydown", (event) => {
    const act = acts[event.key];
    if (!act || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    hideTip();
    act();
  });
}
