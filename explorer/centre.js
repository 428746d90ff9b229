"use strict";
// From a drawing to an image as MNIST's are: fitted into 20 × 20 pixels, then centred by mass in 28 × 28.

const SIDE = 28;
const BOX = 20;

/** An image of 28 × 28 from ink in [0, 1] on a square of `size` pixels a side; null without ink. */
function centred(ink, size) {
  const inked = [...ink.keys()].filter((i) => ink[i] > 0);
  if (!inked.length) return null;
  const [left, right] = extent(inked.map((i) => i % size));
  const [top, bottom] = extent(inked.map((i) => Math.floor(i / size)));
  const scale = BOX / Math.max(right - left, bottom - top);
  const fitted = new Float64Array(SIDE * SIDE);
  for (const i of inked) {
    spread(fitted, ink[i], ((i % size) - left) * scale, (Math.floor(i / size) - top) * scale, scale);
  }
  return centredByMass(fitted);
}

function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value + 1)], [Infinity, 0]);
}

/** Add a square of ink to an image, to each pixel by the area they share. */
function spread(image, ink, x, y, side) {
  for (let row = Math.floor(y); row < Math.min(BOX, y + side); row++) {
    const height = Math.min(row + 1, y + side) - Math.max(row, y);
    for (let column = Math.floor(x); column < Math.min(BOX, x + side); column++) {
      const width = Math.min(column + 1, x + side) - Math.max(column, x);
      image[row * SIDE + column] += ink * height * width;
    }
  }
}

/** The image moved by whole pixels until its centre of mass lies in pixel (14, 14), as MNIST's does; 256 grey levels. */
function centredByMass(image) {
  let [mass, across, down] = [0, 0, 0];
  image.forEach((value, i) => {
    mass += value;
    across += value * (i % SIDE);
    down += value * Math.floor(i / SIDE);
  });
  const [right, below] = [across, down].map((sum) => Math.round(SIDE / 2 - sum / mass));
  const moved = new Float64Array(SIDE * SIDE);
  image.forEach((value, i) => {
    const [column, row] = [(i % SIDE) + right, Math.floor(i / SIDE) + below];
    if (column >= 0 && column < SIDE && row >= 0 && row < SIDE) {
      moved[row * SIDE + column] = Math.round(255 * Math.min(value, 1)) / 255;
    }
  });
  return moved;
}
