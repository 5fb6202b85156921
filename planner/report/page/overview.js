// Headline numbers, warnings, modules; the table of traffic.

function table(caption, heads, rows) {
  const cells = (tag, row) => row.map((cell, at) =>
    el(tag, { class: heads[at].startsWith("#") ? "number" : null, scope: tag === "th" ? "col" : null },
      tag === "th" ? cell.replace(/^#/, "") : cell));
  return el("div", { class: "scroll" }, el("table", {}, caption ? el("caption", {}, caption) : null,
    el("thead", {}, el("tr", {}, cells("th", heads))),
    el("tbody", {}, rows.map((row) => el("tr", {}, cells("td", row))))));
}

function drawOverview() {
  document.getElementById("title").textContent = report.title;
  document.getElementById("summary").textContent = report.summary;
  document.getElementById("digest").textContent = `Digest of the plan: ${report.digest}`;
  document.getElementById("main").append(el("dl", { class: "facts" }, report.facts.map((fact) =>
    el("div", { class: "fact" }, el("dt", {}, fact.label), el("dd", { class: "value" }, fact.value),
      el("dd", { class: "note" }, fact.note)))));
  if (report.warnings.length) {
    section("warnings", plural(report.warnings.length, "warning"), null,
      el("ul", { class: "warnings" }, report.warnings.map((text) => el("li", {}, text))));
  }
  const noted = report.modules.some((module) => module.notes);
  const modelled = report.modules.some((module) => module.model);
  const heads = ["module", "#GPUs", "ranks", "parallel axes", ...(modelled ? ["model"] : []), ...(noted ? ["settings"] : [])];
  section("modules", "Modules", null, table(null, heads, report.modules.map((module, index) =>
    [chip(module.name, moduleColour(index)), module.num_ranks.toLocaleString("en"), module.ranks, module.axes,
      ...(modelled ? [module.model] : []), ...(noted ? [module.notes] : [])])));
}

function drawTraffic() {
  if (!report.traffic.length) return;
  const timed = report.traffic.some((row) => row.seconds !== null);
  const heads = ["owner", "kind", "what", "wire", "#bytes per GPU and step", ...(timed ? ["#time per step"] : [])];
  section("traffic", "Traffic", "What one GPU sends in one optimizer step, by group and bridge.", table(null, heads,
    report.traffic.map((row) => [row.owner, row.kind, row.what, row.wire, bytes(row.bytes_per_rank),
      ...(timed ? [row.seconds === null ? "–" : time(row.seconds)] : [])])));
}
