// What every section uses: elements, colours, numbers with units, the one tooltip.

const report = JSON.parse(document.getElementById("content").textContent);

/** An element; text children are always text, never markup. */
function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") made.style.cssText += value; // keeps what "--name" has set
    else if (name.startsWith("--")) made.style.setProperty(name, value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const sections = [];

/** A section of the page, listed in the navigation. */
function section(id, title, lead, ...children) {
  const made = el("section", { id, "aria-labelledby": `${id}-title` },
    el("h2", { id: `${id}-title` }, title), lead ? el("p", { class: "lead" }, lead) : null, ...children);
  sections.push([id, title]);
  document.getElementById("main").append(made);
  return made;
}

const NUM_COLOURS = 8;
const moduleColour = (index) => `var(--m${index % NUM_COLOURS})`;
const textOnColour = (index) => (index % NUM_COLOURS === 0 ? "var(--on0)" : "var(--on)");
const moduleName = (index) => report.modules[index].name;
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const chip = (text, colour) => el("span", { class: "chip", "--c": colour }, text);
const moduleLegend = () => el("ul", { class: "legend" },
  report.modules.map((module, index) => el("li", {}, chip(module.name, moduleColour(index)))));

/** The value of a colour of the style sheet, as [red, green, blue]. */
function rgb(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}

const mix = (one, other, part) => one.map((value, at) => Math.round(value * part + other[at] * (1 - part)));
const css = (colour) => `rgb(${colour.join(" ")})`;
/** Black or white, whichever is easier to read on a colour. */
const readable = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 100 ? "#10151c" : "#ffffff");

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (count >= 999.5 && at < units.length - 1) { count /= 1024; at += 1; }
  return `${count >= 100 || at === 0 ? count.toFixed(0) : count.toPrecision(3)} ${units[at]}`;
}

/** Seconds with a unit that suits `scale`; a time that is not predicted is counted in forward passes. */
function time(seconds, scale) {
  if (report.timeline && !report.timeline.is_predicted) return `${+seconds.toPrecision(4)} passes`;
  const size = scale === undefined ? seconds : scale;
  if (size >= 1 || seconds === 0) return `${+seconds.toPrecision(4)} s`;
  if (size >= 1e-3) return `${+(seconds * 1e3).toPrecision(4)} ms`;
  return `${+(seconds * 1e6).toPrecision(4)} µs`;
}

// ---- the tooltip

const tip = document.getElementById("tip");

function showTip(lines, x, y) {
  tip.replaceChildren(el("b", {}, lines[0]), ...lines.slice(1).map((line) => el("span", {}, line)));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(x + 14, innerWidth - box.width - 8);
  const above = y + 18 + box.height > innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, above ? y - box.height - 12 : y + 18)}px`;
}

let placeTip = null; // puts the tooltip back beside its element, where it belongs to one

function hideTip() { tip.hidden = true; placeTip = null; }

/** Show lines beside an element while the pointer is on it or it has the focus. */
function tipFor(element, lines) {
  const under = () => {
    const box = element.getBoundingClientRect();
    showTip(lines(), box.left, box.bottom - 12);
    placeTip = under;
  };
  element.addEventListener("mouseenter", under);
  element.addEventListener("focus", under);
  element.addEventListener("mouseleave", hideTip);
  element.addEventListener("blur", hideTip);
}

addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
addEventListener("scroll", () => (placeTip || hideTip)(), { passive: true }); // the focus may have caused it

/** Arrow keys move the focus inside a group of elements, which is one stop of the tab key. */
function moveWithArrows(group, perRow) {
  group.forEach((element, at) => {
    element.tabIndex = at === 0 ? 0 : -1;
    element.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow, ArrowUp: -perRow }[event.key];
      const next = step === undefined ? null : group[at + step];
      if (!next) return;
      event.preventDefault();
      element.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  });
}
