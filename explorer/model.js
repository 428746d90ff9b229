"use strict";
// The maths of ksae_lib/model.py: z = Wᵀx + b, Γ = supp_k(z), x̂ = W z_Γ + b′.

const ARRAYS = { int8: Int8Array, uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };

/** The typed array that explorer/build.py has packed. */
async function unpack({ type, data }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new ARRAYS[type](await new Response(stream).arrayBuffer());
}

/** The nearest whole number; of two the even one, as Python rounds αk. */
function roundHalfEven(value) {
  const down = Math.floor(value);
  return value - down === 0.5 ? down + (down % 2) : Math.round(value);
}

/** One trained autoencoder. Images are arrays of 784 numbers in [0, 1]. */
class Model {
  constructor(name, { k, alpha, testError }, arrays) {
    Object.assign(this, { name, k, alpha, testError }, arrays);
    this.units = this.bias.length;
    this.pixels = this.visibleBias.length;
    this.classes = this.classifierBias.length;
    this.norms = Float64Array.from({ length: this.units }, (_, j) => Math.hypot(...this.atom(j)));
  }

  static async load(name, content) {
    const parts = Object.entries(content.arrays).map(async ([key, packed]) => [key, await unpack(packed)]);
    return new Model(name, content, Object.fromEntries(await Promise.all(parts)));
  }

  /** The atom of a unit: column j of W. */
  atom(j) {
    const own = this.atoms.subarray(j * this.pixels, (j + 1) * this.pixels);
    return Float64Array.from(own, (step) => step * this.scale[j]);
  }

  /** z = Wᵀx + b. */
  preActivations(image) {
    const inked = [...image.keys()].filter((i) => image[i]);
    return Float64Array.from(this.bias, (bias, j) => {
      let sum = 0;
      for (const i of inked) sum += this.atoms[j * this.pixels + i] * image[i];
      return this.scale[j] * sum + bias;
    });
  }

  /** supp_k(z): the units of the k largest values, the largest first; of equal values the lower index first. */
  support(z, kept) {
    return [...z.keys()].sort((a, b) => z[b] - z[a] || a - b).slice(0, kept);
  }

  /** x̂ = W z_Γ + b′. */
  decode(support, code) {
    const sum = Float64Array.from(this.visibleBias);
    support.forEach((j, n) => {
      const step = code[n] * this.scale[j];
      for (let i = 0; i < this.pixels; i++) sum[i] += this.atoms[j * this.pixels + i] * step;
    });
    return sum;
  }

  encode(image, kept) {
    const z = this.preActivations(image);
    const support = this.support(z, kept);
    const code = support.map((j) => z[j]);
    return { z, support, code, reconstruction: this.decode(support, code) };
  }

  /** Probability of each class: softmax of a linear classifier on the code. */
  classify(support, code) {
    const logits = Array.from(this.classifierBias, (bias, c) =>
      support.reduce((sum, j, n) => sum + code[n] * this.classifier[j * this.classes + c] * this.classifierScale[j], bias),
    );
    const largest = Math.max(...logits);
    const weights = logits.map((logit) => Math.exp(logit - largest));
    const total = weights.reduce((a, b) => a + b);
    return weights.map((weight) => weight / total);
  }

  /** How many test digits of each class keep a unit. */
  usesByClass(j) {
    return Array.from(this.uses.subarray(j * this.classes, (j + 1) * this.classes));
  }

  /** The units whose atoms have the largest cosine with that of unit j, as [unit, cosine]. */
  similar(j, count) {
    const atom = this.atom(j);
    const cosines = Float64Array.from(this.norms, (norm, other) => {
      let product = 0;
      for (let i = 0; i < this.pixels; i++) product += this.atoms[other * this.pixels + i] * atom[i];
      return (product * this.scale[other]) / (norm * this.norms[j]);
    });
    cosines[j] = -Infinity;
    return this.support(cosines, count).map((other) => [other, cosines[other]]);
  }
}

function squaredError(image, reconstruction) {
  return image.reduce((sum, value, i) => sum + (value - reconstruction[i]) ** 2, 0);
}
