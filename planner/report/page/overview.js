// Headline numbers, problems and warnings, modules; the table of traffic.

/**
 * A table. A cell holds text, an element or a list of them, or is made by `heading`; null stands for a row that a
 * heading above spans.
 * @param {string | null} caption
 * @param {string[]} heads those of columns of numbers begin with #
 * @param {(Child | Child[])[][]} rows
 */
function table(caption, heads, rows) {
  /** @param {number} at */
  const kind = (at) => (heads[at].startsWith("#") ? "number" : null);
  /** @param {number} at */
  const name = (at) => heads[at].replace(/^#/, "");
  /** @type {(cell: Child | Child[], at: number) => HTMLElement} */
  const drawn = (cell, at) => (cell instanceof HTMLTableCellElement ? cell :
    el("td", { class: cell === "" ? "empty" : kind(at), "data-name": name(at) }, el("div", {}, cell)));
  return el("div", { class: "scroll" }, el("table", {}, caption ? el("caption", {}, caption) : null,
    el("thead", {}, el("tr", {}, heads.map((_, at) => el("th", { class: kind(at), scope: "col" }, name(at))))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, at) => (cell === null ? null : drawn(cell, at))))))));
}

/**
 * The name of one row or of several.
 * @param {Child} content
 */
const heading = (content, span = 1) => el("th", { scope: span > 1 ? "rowgroup" : "row", rowspan: span }, content);

/**
 * A number with a bar of its share under it.
 * @param {string} text
 * @param {number} share
 */
const metered = (text, share) => [text, el("i", { class: "meter", style: `--share:${percent(share)}` })];

function drawOverview() {
  byId("title").textContent = report.title;
  byId("summary").textContent = report.summary;
  byId("digest").textContent = `Digest of the plan: ${report.digest}`;
  byId("main").append(el("dl", { class: "facts" }, report.facts.map((fact) =>
    el("div", { class: `fact ${fact.tone}` }, el("dt", {}, fact.label), el("dd", { class: "value" }, fact.value),
      el("dd", { class: "note" }, fact.note)))));
  const problems = report.notices.filter((notice) => notice.is_problem).length;
  /** @type {[count: number, noun: string][]} */
  const counts = [[problems, "problem"], [report.notices.length - problems, "warning"]];
  if (report.notices.length) {
    section("notices", counts.filter(([count]) => count).map(([count, noun]) => plural(count, noun)).join(", "), null,
      el("ul", { class: "notices" },
        report.notices.map((notice) => el("li", { class: notice.is_problem ? "problem" : null }, notice.text))));
  }
  const noted = report.modules.some((module) => module.notes);
  const modelled = report.modules.some((module) => module.model);
  const heads = ["module", "#GPUs", "ranks", "parallel axes", ...(modelled ? ["model"] : []), ...(noted ? ["settings"] : [])];
  section("modules", "Modules", null, table(null, heads, report.modules.map((module, index) =>
    [heading(chip(module.name, moduleColour(index))), module.num_ranks.toLocaleString("en"), module.ranks, module.axes,
      ...(modelled ? [module.model] : []), ...(noted ? [module.notes] : [])])));
}

/**
 * The owner of a row of traffic, once for all of its rows.
 * @param {Content.TrafficRow[]} rows
 * @param {number} at
 */
function ownerOf(rows, at) {
  const { owner } = rows[at];
  if (at && rows[at - 1].owner === owner) return null;
  const next = rows.findIndex((row, index) => index > at && row.owner !== owner);
  return heading(owner, (next < 0 ? rows.length : next) - at);
}

function drawTraffic() {
  const rows = report.traffic;
  if (!rows.length) return;
  const timed = rows.some((row) => row.seconds !== null);
  const longest = Math.max(...rows.map((row) => row.seconds || 0)) || 1;
  const heads = ["owner", "group", "what", "wire", "#sent per GPU", ...(timed ? ["#time"] : [])];
  section("traffic", "Traffic", "What one GPU sends in one optimizer step, and how long that takes, by group and bridge.",
    table(null, heads, rows.map((row, at) => [ownerOf(rows, at), row.kind, row.what, row.wire, bytes(row.bytes_per_rank),
      ...(timed ? [row.seconds === null ? "–" : metered(time(row.seconds), row.seconds / longest)] : [])])));
}
