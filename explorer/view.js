"use strict";
// How numbers become what is seen: images, stems, bars, cards.

const $ = (selector, within = document) => within.querySelector(selector);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function channels(name) {
  const hex = colour(name);
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

/** Paint an image on a canvas: paper at 0, ink at `scale`, the accent at `-scale`. */
function paint(canvas, image, scale = 1) {
  const [paper, ink, accent] = ["--paper", "--ink", "--accent"].map(channels);
  canvas.width = canvas.height = SIDE;
  const picture = new ImageData(SIDE, SIDE);
  image.forEach((value, i) => {
    const share = Math.min(Math.abs(value) / scale, 1);
    const to = value < 0 ? accent : ink;
    for (let c = 0; c < 3; c++) picture.data[4 * i + c] = paper[c] + share * (to[c] - paper[c]);
    picture.data[4 * i + 3] = 255;
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

/** An element with properties and children. */
function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function number(value, digits = 2) {
  return value.toFixed(digits).replace("-", "−");
}

function largest(image) {
  return image.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
}

/** A radio button that looks like a segment or a thumbnail. */
function choice(group, value, face, label) {
  const input = made("input", { type: "radio", name: group, value });
  if (label) input.setAttribute("aria-label", label);
  return made("label", {}, input, made("span", {}, face));
}

/** A button with an image, a figure and a name. */
function card(image, scale, figure, name, act) {
  const button = made(
    "button",
    { type: "button", onclick: act },
    paint(document.createElement("canvas"), image, scale),
    made("strong", {}, figure),
    made("span", {}, name),
  );
  return made("li", {}, button);
}

/** One bar a class, of shares that add up to 1; the longest stands out. */
function showBars(list, shares) {
  const most = Math.max(...shares);
  list.replaceChildren(
    ...shares.map((share, label) => {
      const bar = made("span", { className: "bar" });
      bar.style.setProperty("--share", share);
      const text = share > 0 && share < 0.001 ? "< 0.1%" : `${(100 * share).toFixed(1)}%`;
      return made("li", { className: share === most ? "most" : "" }, made("b", {}, String(label)), bar, made("span", {}, text));
    }),
  );
}

/** The stem plot of all pre-activations. */
function showStems(plot, { z, support, code }) {
  const [low, high] = [Math.min(0, ...z), Math.max(0, ...z)];
  const height = (value) => 40 + (920 * (high - value)) / (high - low);
  const across = (j) => ((j + 0.5) / z.length) * 1000;
  const kept = new Set(support);
  const stems = (units) => units.map((j) => `M${across(j)} ${height(0)}V${height(z[j]).toFixed(1)}`).join("");
  const cut = code.at(-1);
  const paths = {
    zero: `M0 ${height(0)}H1000`,
    dropped: stems([...z.keys()].filter((j) => !kept.has(j))),
    kept: stems(support),
    dots: support.map((j) => `M${across(j)} ${height(z[j]).toFixed(1)}h0`).join(""),
    threshold: `M0 ${height(cut)}H1000`,
  };
  for (const [name, path] of Object.entries(paths)) $(`.${name}`, plot).setAttribute("d", path);
  const ticks = { top: [high, number(high, 1)], nought: [0, "0"], cut: [cut, number(cut)] };
  for (const [name, [value, text]] of Object.entries(ticks)) {
    const tick = $(`.${name}`, plot);
    tick.style.top = `${height(value) / 10}%`;
    tick.textContent = text;
  }
  // Labels would lie on one another.
  const apart = (value) => Math.abs(height(value) - height(cut)) > 90;
  $(".nought", plot).hidden = !apart(0);
  $(".top", plot).hidden = !apart(high);
  plot.setAttribute(
    "aria-label",
    `Stem plot of the pre-activations of ${z.length} units. ${support.length} are kept, with values from ${number(cut)} to ${number(code[0])}.`,
  );
}

/** The kept units in the order of what they contribute: |z_j| ‖w_j‖. */
function byContribution(model, { support, code }) {
  const weight = code.map((value, n) => Math.abs(value) * model.norms[support[n]]);
  return [...code.keys()].sort((a, b) => weight[b] - weight[a]).map((n) => [support[n], code[n]]);
}

/** The first kept atoms, each times its value, on one scale. */
function showAtoms(list, model, ordered, open) {
  const images = ordered.map(([j, value]) => model.atom(j).map((weight) => weight * value));
  // At the scale of the largest weight of all, most atoms would be too faint to see.
  const scale = 0.4 * Math.max(...images.map(largest));
  list.replaceChildren(
    ...ordered.map(([j, value], n) => card(images[n], scale, number(value), `unit ${j}`, () => open(j))),
  );
}

/** Reconstructions from ever more atoms, and their errors. */
function showSums(list, model, image, ordered) {
  const steps = [...new Set([0, 1, 2, 5, 10, ordered.length].filter((n) => n <= ordered.length))];
  list.replaceChildren(
    ...steps.map((n) => {
      const part = ordered.slice(0, n);
      const sum = model.decode(part.map(([j]) => j), part.map(([, value]) => value));
      const name = n === 0 ? "b′" : n === ordered.length ? `all ${n}` : `${n} atom${n > 1 ? "s" : ""}`;
      const canvas = paint(document.createElement("canvas"), sum);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", n ? `b′ and ${name}` : "b′ alone");
      return made("li", {}, canvas, made("strong", {}, name), made("span", {}, number(squaredError(image, sum), 1)));
    }),
  );
}
