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
const textOnColour = (index) => `var(--on${index % NUM_COLOURS}, var(--on))`;
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
/** How light a colour is to the eye, 0 to 1: WCAG's relative luminance. */
const luminance = (colour) => colour.map((value) => value / 255)
  .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
  .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
/** Dark or white text, whichever has more contrast with a colour. */
const readable = (colour) => ((luminance(colour) + 0.05) ** 2 > 1.05 * 0.057 ? "#10151c" : "#ffffff");

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (count >= 999.5 && at < units.length - 1) { count /= 1024; at += 1; }
  return `${count >= 100 || at === 0 ? count.toFixed(0) : count.toPrecision(3)} ${units[at]}`;
}

/** The unit of times of about `seconds`, and its size. A time that is not predicted is counted in forward passes. */
function timeUnit(seconds) {
  if (report.timeline && !report.timeline.is_predicted) return ["passes", 1];
  return seconds >= 0.9995 || seconds === 0 ? ["s", 1] : seconds >= 0.9995e-3 ? ["ms", 1e-3] : ["µs", 1e-6];
}

/** A length of time in three digits, in the unit that suits it. */
function time(seconds) {
  const [unit, size] = timeUnit(seconds);
  const amount = seconds / size;
  if (unit === "passes" || !amount) return `${+amount.toFixed(2)} ${unit}`;
  return `${amount >= 99.95 ? Math.round(amount).toLocaleString("en") : amount.toPrecision(3)} ${unit}`;
}

/** A moment of a stretch of `scale` seconds, in that stretch's unit, fine enough to tell moments `step` apart. */
function moment(seconds, scale, step) {
  const [unit, size] = timeUnit(scale);
  const digits = Math.min(9, Math.max(0, -Math.floor(Math.log10(step / size) + 1e-9)));
  return `${(seconds / size).toFixed(digits)} ${unit}`;
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

/** Arrow keys move the focus inside a group of elements, which is one stop of the tab key: up and down as they are laid out. */
function moveWithArrows(group) {
  group.forEach((element, at) => {
    element.tabIndex = at === 0 ? 0 : -1;
    element.addEventListener("keydown", (event) => {
      const next = { ArrowRight: () => group[at + 1], ArrowLeft: () => group[at - 1], Home: () => group[0], End: () => group.at(-1),
        ArrowDown: () => nearest(element, group, 1), ArrowUp: () => nearest(element, group, -1) }[event.key];
      if (!next) return;
      event.preventDefault();
      (next() || element).focus();
    });
    element.addEventListener("focus", () => {
      group.forEach((one) => { if (one.tabIndex === 0) one.tabIndex = -1; });
      element.tabIndex = 0;
    });
  });
}

/** The element of the next row below (1) or above (-1) that is nearest to being in the same column. */
function nearest(element, group, way) {
  const from = element.getBoundingClientRect();
  let [found, least] = [null, [Infinity, Infinity]];
  for (const one of group) {
    const box = one.getBoundingClientRect();
    const [down, across] = [way * (box.top - from.top), Math.abs(box.left - from.left)];
    if (down > 1 && (down < least[0] - 1 || (down < least[0] + 1 && across < least[1]))) [found, least] = [one, [down, across]];
  }
  return found;
}
