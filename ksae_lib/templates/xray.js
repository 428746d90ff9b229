"use strict";
const head = JSON.parse(document.getElementById("head").textContent);
const [main, table, panel, said, more, message] =
  ["main", "#units", "#unit", "#said", "#more", "#message"].map((one) => document.querySelector(one));
const wide = matchMedia("(min-width: 1000px)");
const PAGE = 200, FACTORS = ["Off", "As is", "×2"];
const data = {};
let order = [], sorted = {}, shown = PAGE;

// Numbers

async function unpack() {
  const bytes = Uint8Array.from(atob(document.getElementById("content").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const whole = await new Response(stream).arrayBuffer();
  const types = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };
  let offset = 0;
  for (const [name, type, shape] of head.layout) {
    const end = offset + types[type].BYTES_PER_ELEMENT * shape.reduce((a, b) => a * b, 1);
    const values = new types[type](whole.slice(offset, end));
    offset = end;
    // A row is what follows the first axis.
    const size = shape.slice(1).reduce((a, b) => a * b, 1);
    data[name] = { values, size, shape, row: (n) => values.subarray(n * size, (n + 1) * size) };
  }
}

const one = (name, unit) => data[name].values[unit];
const alive = (unit) => one("uses", unit) > 0;
const change = (unit, n) => {
  const right = (factor) => one("right", factor * head.units + unit);
  return one("keepers", unit) ? 100 * (right(n) - right(1)) : NaN;
};
const topClass = (unit) => {
  const counts = data.counts.row(unit);
  return counts.indexOf(Math.max(...counts));
};
const chance = (unit, label, n) => one("chance", (n * head.units + unit) * head.classes.length + label);

// What columns are sorted by; a dead unit has no value and stays last.
const VALUES = {
  unit: (unit) => unit,
  frequency: (unit) => one("uses", unit) / head.examples,
  mean: (unit) => alive(unit) ? one("mean", unit) : NaN,
  class: (unit) => alive(unit) ? topClass(unit) : NaN,
  purity: (unit) => alive(unit) ? one("counts", unit * head.classes.length + topClass(unit)) / one("uses", unit) : NaN,
  cosine: (unit) => data.cosine.size ? data.cosine.row(unit)[0] : NaN,
  rise: (unit) => alive(unit) ? one("rise", unit) : NaN,
  off: (unit) => change(unit, 0),
  double: (unit) => change(unit, 2),
};

const minus = (text) => text.replace("-", "−");
function digits(value) {
  if (Number.isNaN(value)) return "–";
  return minus(value === 0 ? "0" : Math.abs(value) >= 1000 ? count(Math.round(value)) : value.toPrecision(3));
}
const percent = (share) => Number.isNaN(share) ? "–" : `${(100 * share).toFixed(share && share < 0.001 ? 2 : 1)}%`;
const points = (value) => Number.isNaN(value) ? "–" : (value > 0 ? "+" : "") + minus(value.toFixed(1));
const count = (value) => value.toLocaleString("en");
const nameOf = (feature) => head.names ? head.names[feature] : `feature ${feature}`;

// Drawing

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function svg(width, height, bars, label) {
  const space = "http://www.w3.org/2000/svg";
  const made = document.createElementNS(space, "svg");
  const attributes = { viewBox: `0 0 ${width} ${height}`, width: "100%", height, preserveAspectRatio: "none", role: "img", "aria-label": label };
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  for (const [x, y, w, h] of bars) {
    const bar = document.createElementNS(space, "rect");
    for (const [name, value] of Object.entries({ x, y, width: w, height: h })) bar.setAttribute(name, value);
    made.append(bar);
  }
  return made;
}

function picture(values, label) {
  const [height, width, colours = 1] = head.shape;
  const canvas = make("canvas", { width, height, role: "img", "aria-label": label });
  const image = new ImageData(width, height);
  for (let n = 0; n < width * height; n++) {
    for (let c = 0; c < 3; c++) image.data[4 * n + c] = values[n * colours + (colours === 3 ? c : 0)];
    image.data[4 * n + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

const atom = (unit) => picture(data.atoms.row(unit), `Atom of unit ${unit}`);
const link = (unit, text = unit) => make("a", { href: `#unit=${unit}` }, String(text));

function profile(unit) {
  const uses = one("uses", unit) || 1, width = 100 / head.classes.length;
  const bars = [...data.counts.row(unit)].map((n, label) => [label * width, 24 - 24 * n / uses, 0.8 * width, 24 * n / uses]);
  return svg(100, 24, bars, "Share of each class among the examples that keep the unit");
}

// The table

const CELLS = {
  profile: (unit) => alive(unit) ? profile(unit) : "",
  frequency: (unit) => alive(unit) ? percent(VALUES.frequency(unit)) : "dead",
  mean: (unit) => digits(VALUES.mean(unit)),
  class: (unit) => alive(unit) ? head.classes[topClass(unit)] : "–",
  purity: (unit) => percent(VALUES.purity(unit)),
  cosine: (unit) => [...data.nearest.row(unit)].flatMap((near, n) => [link(near), make("span", {}, data.cosine.row(unit)[n].toFixed(2))]),
  rise: (unit) => digits(VALUES.rise(unit)),
  off: (unit) => points(VALUES.off(unit)),
  double: (unit) => points(VALUES.double(unit)),
};
const columns = [...table.querySelectorAll("thead th")];

function row(unit) {
  const cells = columns.map(({ dataset: { key } }) => {
    if (key === "unit") return make("th", { scope: "row" }, link(unit));
    if (!key) return make("td", {}, make("div", { class: "picture" }, atom(unit)));
    return make("td", { "data-key": key }, ...[CELLS[key](unit)].flat());
  });
  const made = make("tr", { "data-unit": unit }, ...cells);
  if (!alive(unit)) made.className = "dead";
  return made;
}

function fill() {
  table.querySelector("tbody").replaceChildren(...order.slice(0, shown).map(row));
  more.hidden = shown >= order.length;
  more.textContent = `Show ${count(Math.min(PAGE, order.length - shown))} more of ${count(order.length)} units`;
  mark();
}

function sort(key, up) {
  sorted = { key, up };
  const values = Array.from({ length: head.units }, (_, unit) => VALUES[key](unit));
  const last = (unit) => Number.isNaN(values[unit]);
  order = values.map((_, unit) => unit);
  order.sort((a, b) => last(a) - last(b) || (up ? 1 : -1) * (values[a] - values[b]) || a - b);
  for (const column of columns) {
    if (!column.querySelector("button")) continue;
    column.setAttribute("aria-sort", column.dataset.key !== key ? "none" : up ? "ascending" : "descending");
  }
  shown = PAGE;
  fill();
}

// A unit

function told(unit) {
  if (!alive(unit)) {
    return `This unit is dead: none of the ${count(head.examples)} examples keeps it among its ${head.k} largest.`;
  }
  const rise = one("rise", unit), share = Math.abs(rise) / one("before", unit);
  const relative = Number.isFinite(share) ? ` (${percent(share)})` : "";
  return `${count(one("uses", unit))} of ${count(head.examples)} examples keep this unit (${percent(VALUES.frequency(unit))}). ` +
    `With the unit off, their mean squared error ${rise < 0 ? "falls" : "rises"} by ${digits(Math.abs(rise))}${relative}.`;
}

function block(title, ...content) {
  return make("section", {}, make("h3", {}, title), ...content);
}

function rows(titles, lines) {
  const cells = (tag, line) => make("tr", {}, ...line.map((cell) => make(tag, {}, cell)));
  const [top, body] = [make("thead", {}, cells("th", titles)), make("tbody", {}, ...lines.map((line) => cells("td", line)))];
  // It can be wider than the screen: the keyboard must reach it to scroll.
  return make("div", { class: "rows", tabindex: "0", role: "group", "aria-label": titles[0] }, make("table", {}, top, body));
}

function histogram(unit) {
  const counts = [...data.histogram.row(unit)], most = Math.max(...counts), width = 100 / counts.length;
  const bars = counts.map((n, bin) => [bin * width, 72 - 72 * n / most, 0.88 * width, 72 * n / most]);
  const [low, high] = [digits(one("low", unit)), digits(one("high", unit))];
  const label = `Histogram of the activation where it is kept, from ${low} to ${high}`;
  const axis = make("div", { class: "axis" }, make("span", {}, low), make("span", {}, high));
  return block("Activation where kept", svg(100, 72, bars, label), axis);
}

function examples(unit) {
  const top = [...data.top.row(unit)].filter((number) => number >= 0);
  const strength = data.strength.row(unit);
  if (head.shape) {
    const rowOf = new Map([...data.rows.values].map((number, n) => [number, n]));
    const shown = top.map((number, n) => make("li", {}, picture(data.pictures.row(rowOf.get(number)), `Example ${number}`), String(number), make("br"), digits(strength[n])));
    const note = make("p", { class: "soft" }, "Below each: its row and its activation.");
    return block("Examples with the largest activation", note, make("ol", { class: "examples" }, ...shown));
  }
  const parts = data.part.shape[2];
  const lines = top.map((number, n) => {
    const at = (name) => [...data[name].row(unit).subarray(n * parts, (n + 1) * parts)];
    const values = at("value");
    const told = at("part").map((feature, i) => make("div", {}, `${nameOf(feature)} ${digits(values[i])}`));
    return [String(number), digits(strength[n]), make("div", {}, ...told)];
  });
  return block("Examples with the largest activation", rows(["Row", "Activation", "Features that add most, and their values"], lines));
}

function classes(unit) {
  const counts = data.counts.row(unit), keepers = one("keepers", unit);
  const lines = head.classes.map((name, label) => [
    name, percent(counts[label] / one("uses", unit)), percent(head.sizes[label] / head.examples),
    ...FACTORS.map((_, n) => keepers ? percent(chance(unit, label, n)) : "–"),
  ]);
  const steered = "Off, as is and ×2: the classifier's mean probability with the unit's activation set to zero, as it is, and doubled, " +
    `over ${count(keepers)} examples that keep the unit and that it was not fitted on. ` +
    `Its accuracy changes by ${points(change(unit, 0))} points with the unit off, by ${points(change(unit, 2))} with the unit doubled.`;
  const note = "Here: the share among the examples that keep the unit. All: among all examples. " +
    (keepers ? steered : "The classifier was fitted on all of them: there are none left to try.");
  return block("Classes and steering", rows(["Class", "Here", "All", ...FACTORS], lines), make("p", { class: "soft" }, note));
}

function weights(unit) {
  const values = data.weights.row(unit);
  return block("Largest weights of the atom", rows(["Feature", "Weight"], [...data.parts.row(unit)].map((feature, n) => [nameOf(feature), digits(values[n])])));
}

function open(unit) {
  const at = order.indexOf(unit);
  const steps = [["Previous", order[at - 1]], ["Next", order[at + 1]]].filter(([, other]) => other !== undefined);
  const back = make("a", { href: "#", class: "back" }, "All units");
  const parts = [make("div", {},
    make("nav", { "aria-label": "Units" }, back, ...steps.map(([text, other]) => link(other, text))),
    make("h2", { tabindex: "-1" }, `Unit ${unit}`), make("p", {}, told(unit)))];
  parts.push(head.shape ? make("div", { class: "large" }, atom(unit)) : weights(unit));
  if (alive(unit)) parts.push(examples(unit), histogram(unit));
  if (alive(unit) && head.classes.length) parts.push(classes(unit));
  const near = [...data.nearest.row(unit)].map((other, n) => make("li", {}, ...(head.shape ? [atom(other)] : []), link(other, `unit ${other}`), make("br"), `cosine ${minus(data.cosine.row(unit)[n].toFixed(2))}`));
  parts.push(block("Nearest atoms", make("ol", { class: "examples" }, ...near)));
  panel.className = alive(unit) ? "" : "dead";
  panel.replaceChildren(...parts);
  said.textContent = `Unit ${unit}. ${told(unit)}`;
  panel.scrollTop = 0;
}

function asked() {
  const unit = Number(/^#unit=(\d+)$/.exec(location.hash)?.[1] ?? NaN);
  return unit < head.units ? unit : wide.matches ? order[0] : null;
}

function mark() {
  const unit = asked();
  for (const one of table.querySelectorAll("tbody tr")) one.toggleAttribute("aria-current", Number(one.dataset.unit) === unit);
}

function show() {
  const unit = asked(), before = table.querySelector("[aria-current] a");
  if (unit === null) panel.replaceChildren();
  else open(unit);
  mark();
  if (wide.matches) return;
  // One at a time: the unit from its title on, the table where it was left.
  if (unit === null) before?.focus();
  else {
    scrollTo(0, 0);
    panel.querySelector("h2").focus();
  }
}

async function start() {
  try {
    await unpack();
  } catch {
    message.textContent = "This browser is too old for this page: it needs DecompressionStream, which browsers have since 2023.";
    return;
  }
  sort("frequency", false);
  message.hidden = true;
  main.hidden = false;
  for (const column of columns) {
    const { key, up } = column.dataset;
    column.querySelector("button")?.addEventListener("click", () => {
      sort(key, sorted.key === key ? !sorted.up : up !== undefined);
      show();
    });
  }
  more.addEventListener("click", () => { shown += PAGE; fill(); });
  table.querySelector("tbody").addEventListener("click", (event) => {
    if (!event.target.closest("a")) location.hash = `unit=${event.target.closest("tr").dataset.unit}`;
  });
  addEventListener("hashchange", show);
  wide.addEventListener("change", show);
  show();
}

const ready = start();
