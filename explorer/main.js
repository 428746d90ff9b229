"use strict";
// What the reader has chosen, and what follows from it.

const FIRST = 28;
const content = JSON.parse($("#content").textContent);
const models = {};
const digits = [];
const state = { model: null, image: null, k: 25, alpha: 1, all: false };
let pad;
let waiting = 0;

function kept() {
  return roundHalfEven(state.alpha * state.k);
}

/** Show everything anew, once before the next picture. */
function refresh() {
  waiting ||= requestAnimationFrame(() => {
    waiting = 0;
    show();
  });
}

function show() {
  const { model, image, k, alpha } = state;
  const encoded = model.encode(image, kept());
  $("#k-value").textContent = k;
  $("#alpha-value").textContent = alpha;
  $("#kept").textContent = `αk = ${alpha} × ${k}: ${kept()} of ${model.units} kept.`;

  paint($("#input"), image);
  paint($("#reconstruction"), encoded.reconstruction);
  paint($("#residual"), image.map((value, i) => value - encoded.reconstruction[i]));
  $("#error").textContent = number(squaredError(image, encoded.reconstruction));
  showStems($("#stem"), encoded);

  const ordered = byContribution(model, encoded);
  const shown = state.all ? ordered : ordered.slice(0, FIRST);
  showAtoms($("#atoms"), model, shown, openUnit);
  $("#more").hidden = ordered.length <= FIRST;
  $("#more").textContent = state.all ? "Show fewer" : `Show all ${ordered.length} atoms`;
  showSums($("#sums"), model, image, ordered);

  showBars($("#probabilities"), model.classify(encoded.support, encoded.code));
  const own = k === model.k && alpha === model.alpha;
  $("#fitted").textContent =
    `It was fitted to codes of the training images with k = ${model.k} and α = ${model.alpha}. ` +
    `With those it errs on ${model.testError}% of ${content.testDigits.toLocaleString("en")} test digits. ` +
    (own ? "These are the codes you look at." : `It now gets codes with k = ${k} and α = ${alpha}.`);
}

function chooseModel(name) {
  state.model = models[name];
  state.k = state.model.k;
  $("#k").value = state.k;
  $(`#models [value=${name}]`).checked = true;
  const dead = [...state.model.bias.keys()].filter((j) => !state.model.usesByClass(j).some(Boolean));
  $("#dead").hidden = !dead.length;
  $("#dead summary").textContent = `${dead.length} of ${state.model.units} units are dead`;
  const links = dead.flatMap((j) => [made("a", { href: address(j) }, String(j)), " "]);
  $("#dead p").replaceChildren(`No test digit keeps them at k = ${state.model.k}: `, ...links);
  refresh();
}

function showClass(label, checked) {
  $(`#classes [value="${label}"]`).checked = true;
  const own = [...digits.keys()].filter((n) => digits[n].label === label);
  $("#digits").replaceChildren(
    ...own.map((n, place) => {
      const face = paint(document.createElement("canvas"), digits[n].image);
      return choice("digit", n, face, `${label}, example ${place + 1}`);
    }),
  );
  if (checked !== undefined) $(`#digits [value="${checked}"]`).checked = true;
}

function chooseDigit(n) {
  state.image = digits[n].image;
  erase();
  refresh();
}

function erase() {
  pad.clear();
  $("#clear").hidden = true;
  $("#pad-hint").hidden = false;
}

function drawn(ink) {
  state.image = centred(ink, PAD);
  $("#clear").hidden = false;
  $("#pad-hint").hidden = true;
  const picked = $("#digits :checked");
  if (picked) picked.checked = false;
  refresh();
}

// The panel of a unit: #unit=42&model=k25

function address(j) {
  return `#unit=${j}&model=${state.model.name}`;
}

function openUnit(j) {
  location.hash = address(j);
}

function followAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (models[wanted.get("model")] && wanted.get("model") !== state.model.name) chooseModel(wanted.get("model"));
  const unit = /^\d+$/.test(wanted.get("unit")) ? Number(wanted.get("unit")) : NaN;
  if (unit < state.model.units) showUnit(state.model, unit);
  else $("#panel").close();
}

function showUnit(model, j) {
  const uses = model.usesByClass(j);
  const total = uses.reduce((a, b) => a + b);
  $("#panel-title").textContent = `Unit ${j}`;
  $("#panel-model").textContent = `of the model trained with k = ${model.k}`;
  $("#panel-dead").hidden = total > 0;
  $("#panel-dead").textContent = `Dead unit: none of ${content.testDigits.toLocaleString("en")} test digits keeps it at k = ${model.k}.`;
  const atom = model.atom(j);
  paint($("#panel-atom"), atom, largest(atom));
  const facts = {
    "Test digits that keep it": `${total.toLocaleString("en")} (${((100 * total) / content.testDigits).toFixed(1)}%)`,
    "Mean value where kept": total ? number(model.activation[j]) : "–",
    "Norm of the atom ‖w‖": number(model.norms[j]),
    "Bias b": number(model.bias[j]),
  };
  $("#panel-facts").replaceChildren(
    ...Object.entries(facts).map(([name, value]) => made("div", {}, made("dt", {}, name), made("dd", {}, value))),
  );
  $("#panel-profile").hidden = !total;
  if (total) showBars($("#panel-profile ol"), uses.map((count) => count / total));
  const similar = model.similar(j, 8).map(([other, cosine]) => {
    const image = model.atom(other);
    return card(image, largest(image), number(cosine), `unit ${other}`, () => openUnit(other));
  });
  $("#panel-similar").replaceChildren(...similar);

  const users = usersOf(model, j).slice(0, 8);
  $("#panel-users").hidden = !users.length;
  $("#panel-users ol").replaceChildren(
    ...users.map(([n, value]) =>
      card(digits[n].image, 1, number(value), `a ${digits[n].label}`, () => {
        showClass(digits[n].label, n);
        chooseDigit(n);
        $("#panel").close();
      }),
    ),
  );
  if (!$("#panel").open) $("#panel").showModal();
  $("#panel").scrollTop = 0;
  $("#panel-title").focus();
}

/** The page's digits that keep a unit at the model's own k, with its values, the largest first. */
function usersOf(model, j) {
  model.included ??= digits.map(({ image }) => {
    const z = model.preActivations(image);
    return new Map(model.support(z, model.k).map((unit) => [unit, z[unit]]));
  });
  const own = model.included.flatMap((code, n) => (code.has(j) ? [[n, code.get(j)]] : []));
  return own.sort((a, b) => b[1] - a[1]);
}

function listen() {
  $("#models").onchange = (event) => chooseModel(event.target.value);
  $("#classes").onchange = (event) => {
    const first = digits.findIndex(({ label }) => label === Number(event.target.value));
    showClass(Number(event.target.value), first);
    chooseDigit(first);
  };
  $("#digits").onchange = (event) => chooseDigit(Number(event.target.value));
  for (const name of ["k", "alpha"]) {
    $(`#${name}`).oninput = (event) => {
      state[name] = Number(event.target.value);
      refresh();
    };
  }
  $("#more").onclick = () => {
    state.all = !state.all;
    refresh();
  };
  $("#clear").onclick = () => {
    const first = digits.findIndex(({ label }) => label === Number($("#classes :checked").value));
    const input = $(`#digits [value="${first}"]`);
    input.checked = true;
    input.focus();
    chooseDigit(first);
  };
  $("#stem").onclick = (event) => {
    const { left, width } = $("#stem").getBoundingClientRect();
    const share = Math.min(Math.max((event.clientX - left) / width, 0), 1 - 1e-9);
    openUnit(Math.floor(share * state.model.units));
  };
  $("#look").onsubmit = (event) => {
    event.preventDefault();
    openUnit(Number($("#unit-number").value));
  };
  $("#close").onclick = () => $("#panel").close();
  $("#panel").onclick = (event) => event.target === $("#panel") && $("#panel").close();
  $("#panel").onclose = () => history.replaceState(null, "", location.pathname + location.search);
  window.onhashchange = followAddress;
  matchMedia("(prefers-color-scheme: dark)").onchange = () => {
    showClass(Number($("#classes :checked").value), $("#digits :checked")?.value);
    pad.show();
    refresh();
  };
}

async function start() {
  const loaded = Object.entries(content.models).map(([name, packed]) => Model.load(name, packed));
  for (const model of await Promise.all(loaded)) models[model.name] = model;
  const pixels = await unpack(content.images);
  const side = SIDE * SIDE;
  content.labels.forEach((label, n) => {
    digits.push({ label, image: Float64Array.from(pixels.subarray(n * side, (n + 1) * side), (grey) => grey / 255) });
  });
  $("#classes").append(...[...Array(10).keys()].map((label) => choice("class", label, String(label))));
  $("#models").append(...Object.values(models).map(({ name, k }) => choice("model", name, String(k))));
  pad = drawingPad($("#pad"), drawn);
  const first = digits.findIndex(({ label }) => label === 2);
  showClass(2, first);
  chooseDigit(first);
  chooseModel("k25");
  listen();
  $("#main").removeAttribute("aria-busy");
  followAddress();
}

window.ksae = {
  models,
  digits,
  centred,
  encode: (name, pixels, count) => models[name].encode(Float64Array.from(pixels), count),
  ready: start(),
};
window.ksae.ready.catch(() => ($("#problem").hidden = false));
