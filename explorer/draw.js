"use strict";
// The pad on which a reader draws with mouse, pen or finger.

const PAD = 280;
/** Of a digit of 200 pixels, which becomes one of 20, a stroke of MNIST's width. */
const PEN = 22;

/** Let a canvas be drawn on; `drawn` gets the ink after each movement. Returns how to clear it. */
function drawingPad(canvas, drawn) {
  const sheet = new OffscreenCanvas(PAD, PAD).getContext("2d", { willReadFrequently: true });
  Object.assign(sheet, { lineWidth: PEN, lineCap: "round", lineJoin: "round" });
  canvas.width = canvas.height = PAD;
  const shown = canvas.getContext("2d");
  let last = null;

  const show = () => {
    shown.clearRect(0, 0, PAD, PAD);
    shown.drawImage(sheet.canvas, 0, 0);
    shown.globalCompositeOperation = "source-in";
    shown.fillStyle = colour("--ink");
    shown.fillRect(0, 0, PAD, PAD);
    shown.globalCompositeOperation = "source-over";
  };
  const place = ({ clientX, clientY }) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    return [((clientX - left) / width) * PAD, ((clientY - top) / height) * PAD];
  };
  const stroke = (to) => {
    sheet.beginPath();
    sheet.moveTo(...last);
    // A canvas leaves out lines of no length, but a tap is a dot.
    sheet.lineTo(to[0] + 0.01, to[1]);
    sheet.stroke();
    last = to;
    show();
    const { data } = sheet.getImageData(0, 0, PAD, PAD);
    drawn(Float64Array.from({ length: PAD * PAD }, (_, i) => data[4 * i + 3] / 255));
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    stroke(last);
  });
  canvas.addEventListener("pointermove", (event) => last && stroke(place(event)));
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
  return { show, clear: () => (sheet.clearRect(0, 0, PAD, PAD), show()) };
}
