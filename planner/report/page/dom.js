// What every section uses: elements, colours, numbers with units, and the one tooltip.

/**
 * The element of page.html with this id.
 * @param {string} id
 */
function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

/** @type {Content.Report} */
const report = JSON.parse(byId("content").textContent);

/**
 * An element. Text children are always text, never markup.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes} attributes
 * @param {...(Child | Child[])} children
 */
function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value); // onclick, oninput
    else if (value === null || value === undefined) continue;
    else if (name === "style") made.style.cssText += value; // keeps what "--name" has set
    else if (name.startsWith("--")) made.style.setProperty(name, String(value));
    else made.setAttribute(name, String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/**
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | number>} attributes
 * @param {...(Node | string)} children
 */
function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** @param {HTMLCanvasElement} canvas */
function contextOf(canvas) {
  const found = canvas.getContext("2d");
  if (!found) throw new Error("this browser draws on no canvas");
  return found;
}

/** @type {[id: string, title: string][]} */
const sections = [];

/**
 * A section of the page, which the navigation lists.
 * @param {string} id
 * @param {string} title
 * @param {string | null} lead
 * @param {...(Child | Child[])} children
 */
function section(id, title, lead, ...children) {
  const made = el("section", { id, "aria-labelledby": `${id}-title` },
    el("h2", { id: `${id}-title` }, title), lead ? el("p", { class: "lead" }, lead) : null, ...children);
  sections.push([id, title]);
  byId("main").append(made);
  return made;
}

const NUM_COLOURS = 8;
/** @param {number} index */
const moduleColour = (index) => `var(--m${index % NUM_COLOURS})`;
/** @param {number} index */
const textOnColour = (index) => `var(--on${index % NUM_COLOURS}, var(--on))`;
/** @param {number} index */
const moduleName = (index) => report.modules[index].name;
/** @type {(count: number, noun: string) => string} */
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
/** @param {number} share 0 to 1 */
const percent = (share) => `${(100 * share).toFixed(1)}%`;
/** @type {(text: string, colour: string) => HTMLElement} */
const chip = (text, colour) => el("span", { class: "chip", "--c": colour }, text);
const moduleLegend = () => el("ul", { class: "legend" },
  report.modules.map((module, index) => el("li", {}, chip(module.name, moduleColour(index)))));

/**
 * The value of a colour of the style sheet.
 * @param {string} name
 * @returns {Colour}
 */
function rgb(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}

/** @type {(one: Colour, other: Colour, part: number) => Colour} */
const mix = (one, other, part) => one.map((value, at) => Math.round(value * part + other[at] * (1 - part)));
/** @param {Colour} colour */
const css = (colour) => `rgb(${colour.join(" ")})`;
/**
 * How light a colour is to the eye, 0 to 1: WCAG's relative luminance.
 * @param {Colour} colour
 */
const luminance = (colour) => colour.map((value) => value / 255)
  .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
  .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
/**
 * Dark or white text, whichever has more contrast with a colour.
 * @param {Colour} colour
 */
const readable = (colour) => ((luminance(colour) + 0.05) ** 2 > 1.05 * 0.057 ? "#10151c" : "#ffffff");

/** @param {number} count */
function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (count >= 999.5 && at < units.length - 1) { count /= 1024; at += 1; }
  return `${count >= 100 || at === 0 ? count.toFixed(0) : count.toPrecision(3)} ${units[at]}`;
}

/**
 * The unit for times of about `seconds`, and its size. A time that is not predicted is counted in forward passes.
 * @param {number} seconds
 * @returns {[unit: string, size: number]}
 */
function timeUnit(seconds) {
  if (report.timeline && !report.timeline.is_predicted) return ["passes", 1];
  return seconds >= 0.9995 || seconds === 0 ? ["s", 1] : seconds >= 0.9995e-3 ? ["ms", 1e-3] : ["µs", 1e-6];
}

/**
 * A length of time in three digits, in the unit that suits it.
 * @param {number} seconds
 */
function time(seconds) {
  const [unit, size] = timeUnit(seconds);
  const amount = seconds / size;
  if (unit === "passes" || !amount) return `${+amount.toFixed(2)} ${unit}`;
  return `${amount >= 99.95 ? Math.round(amount).toLocaleString("en") : amount.toPrecision(3)} ${unit}`;
}

/**
 * A moment within a stretch of `scale` seconds, in that stretch's unit, with enough digits to tell moments `step` apart.
 * @param {number} seconds
 * @param {number} scale
 * @param {number} step
 */
function moment(seconds, scale, step) {
  const [unit, size] = timeUnit(scale);
  const digits = Math.min(9, Math.max(0, -Math.floor(Math.log10(step / size) + 1e-9)));
  return `${(seconds / size).toFixed(digits)} ${unit}`;
}

// ---- the tooltip

const tip = byId("tip");

/**
 * @param {string[]} lines
 * @param {number} x
 * @param {number} y
 */
function showTip(lines, x, y) {
  tip.replaceChildren(el("b", {}, lines[0]), ...lines.slice(1).map((line) => el("span", {}, line)));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(x + 14, innerWidth - box.width - 8);
  const above = y + 18 + box.height > innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, above ? y - box.height - 12 : y + 18)}px`;
}

/** @type {(() => void) | null} */
let placeTip = null; // puts the tooltip back beside the element that it belongs to, if any

function hideTip() { tip.hidden = true; placeTip = null; }

/**
 * Show lines beside an element while the pointer is on it or it has the focus.
 * @param {HTMLElement} element
 * @param {() => string[]} lines
 */
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

/**
 * Arrow keys move the focus inside a group of elements, which is one stop of the tab key: up and down as they are laid out.
 * @param {HTMLElement[]} group
 */
function moveWithArrows(group) {
  group.forEach((element, at) => {
    /** @type {Record<string, (() => HTMLElement | null | undefined) | undefined>} */
    const moves = { ArrowRight: () => group[at + 1], ArrowLeft: () => group[at - 1], Home: () => group[0], End: () => group.at(-1),
      ArrowDown: () => nearest(element, group, 1), ArrowUp: () => nearest(element, group, -1) };
    element.tabIndex = at === 0 ? 0 : -1;
    element.addEventListener("keydown", (event) => {
      const next = moves[event.key];
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

/**
 * The element of the next row below (1) or above (-1) that is nearest to being in the same column; null if there is none.
 * @param {HTMLElement} element
 * @param {HTMLElement[]} group
 * @param {1 | -1} way
 */
function nearest(element, group, way) {
  const from = element.getBoundingClientRect();
  /** @type {HTMLElement | null} */
  let found = null;
  let least = [Infinity, Infinity];
  for (const one of group) {
    const box = one.getBoundingClientRect();
    const [down, across] = [way * (box.top - from.top), Math.abs(box.left - from.left)];
    if (down > 1 && (down < least[0] - 1 || (down < least[0] + 1 && across < least[1]))) [found, least] = [one, [down, across]];
  }
  return found;
}
