// A line of the last values, without axes: the number beside it says what the latest is.

import { drawn } from "./dom.js";

const WIDTH = 120;
const HEIGHT = 28;

/** `values` oldest first; null makes a gap. `room`: how many fit. */
export function sparkline(values, room) {
  const most = Math.max(...values.map((value) => value ?? 0), 1e-9);
  const step = WIDTH / (room - 1);
  const start = WIDTH - step * (values.length - 1);
  let path = "";
  let pen = false;
  values.forEach((value, n) => {
    if (value === null) {
      pen = false;
      return;
    }
    const y = HEIGHT - 2 - (value / most) * (HEIGHT - 4);
    path += `${pen ? "L" : "M"}${(start + n * step).toFixed(1)} ${y.toFixed(1)}${pen ? "" : "h.01"}`;
    pen = true;
  });
  const box = `0 0 ${WIDTH} ${HEIGHT}`;
  return drawn("svg", { viewBox: box, class: "spark", "aria-hidden": "true", preserveAspectRatio: "none" }, drawn("path", { d: path }));
}
