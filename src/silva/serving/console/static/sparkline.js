// A line of the last values, without axes: the number beside it says what they come to.

import { drawn } from "./dom.js";

const WIDTH = 120;
const HEIGHT = 28;

/** `values` oldest first, null where nothing was measured; `room`: how many fit. */
export function sparkline(values, room) {
  const most = Math.max(...values.map((value) => value ?? 0), 1e-9);
  const step = WIDTH / (room - 1);
  const start = WIDTH - step * (values.length - 1);
  const points = values.flatMap((value, n) => {
    if (value === null) return [];
    const y = HEIGHT - 2 - (value / most) * (HEIGHT - 4);
    return [`${(start + n * step).toFixed(1)} ${y.toFixed(1)}`];
  });
  const path = points.length ? `M${points.join("L")}h.01` : ""; // a line of one point is seen too
  const box = `0 0 ${WIDTH} ${HEIGHT}`;
  return drawn("svg", { viewBox: box, class: "spark", "aria-hidden": "true", preserveAspectRatio: "none" }, drawn("path", { d: path }));
}
