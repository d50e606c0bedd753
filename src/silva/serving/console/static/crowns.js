// The forest as a drawing: a tree a cluster, a leaf a client, the fuller its colour the better its model.

import { drawn, element, tinted } from "./dom.js";
import { finalOf, shown } from "./figures.js";

const MOST_LEAVES = 300; // of one tree; more would be dust
const MOST_BRANCHES = 40;
const GOLDEN = Math.PI * (3 - Math.sqrt(5));
const HEIGHT = 150;

/** Draws `forest` into `place`; `choose` is called with the name of a client or cluster that was clicked. */
export function drawCrowns(place, forest, choose) {
  const { clusters, clients } = forest.outline;
  const trees = clusters.map((each) => forest.clusters.get(each.name));
  if (clients.length) trees.push({ name: null, clients, hue: null });
  const most = Math.max(1, ...trees.map((each) => each.clients.length));
  const fullness = scale([...forest.clients.values()], forest.figure);
  place.replaceChildren(...trees.map((each) => tree(each, most, fullness, forest.figure, choose)));
}

/** Marks the client that is looked at. */
export function markLeaf(place, name) {
  for (const leaf of place.querySelectorAll("[data-client]")) {
    leaf.classList.toggle("chosen", leaf.dataset.client === name);
  }
}

function tree({ name, clients, hue }, most, fullness, figure, choose) {
  const drawnOnes = thinned(clients);
  const radius = 16 + 38 * Math.sqrt(clients.length / most);
  const size = Math.max(1, Math.min(8, (0.8 * radius) / Math.sqrt(drawnOnes.length || 1)));
  const step = (radius - size - 3) / Math.sqrt(drawnOnes.length || 1);
  const middle = HEIGHT - 30 - radius;
  const branches = [];
  const leaves = drawnOnes.map((client, number) => {
    const distance = step * Math.sqrt(number + 0.5);
    const x = (60 + distance * Math.cos(number * GOLDEN)).toFixed(1);
    const y = (middle + distance * Math.sin(number * GOLDEN)).toFixed(1);
    const value = finalOf(client, figure);
    if (number < MOST_BRANCHES) branches.push(`M60 ${middle + radius} Q60 ${middle + 6} ${x} ${y}`);
    const leaf = drawn(
      "circle",
      {
        cx: x,
        cy: y,
        r: size.toFixed(1),
        class: client.leaf ? "leaf" : "leaf bare",
        "data-client": client.name,
        onclick: () => choose(client.name),
      },
      drawn("title", {}, `${client.name} ${shown(figure, value)}`),
    );
    leaf.style.setProperty("--full", `${(100 * fullness(value)).toFixed(0)}%`);
    return leaf;
  });
  const picture = drawn(
    "svg",
    { viewBox: `0 0 120 ${HEIGHT}`, "aria-hidden": "true" },
    drawn("circle", { class: "crown", cx: 60, cy: middle, r: radius, onclick: () => name && choose(name) }),
    drawn("path", { class: "branches", d: branches.join("") }),
    drawn("path", { class: "trunk", d: `M56.5 ${HEIGHT} Q59 ${HEIGHT - 8} 59.2 ${middle + radius - 6} h1.6 Q61 ${HEIGHT - 8} 63.5 ${HEIGHT}z` }),
    leaves,
  );
  const less = drawnOnes.length < clients.length ? `, ${drawnOnes.length} drawn` : "";
  return tinted(
    element(
      "figure",
      {},
      picture,
      element("figcaption", {}, element("b", {}, name ?? "no cluster"), ` ${clients.length}${less}`),
    ),
    hue,
  );
}

/** Every so-many-th client where there are too many to draw. */
function thinned(clients) {
  if (clients.length <= MOST_LEAVES) return clients;
  const stride = clients.length / MOST_LEAVES;
  return Array.from({ length: MOST_LEAVES }, (_, n) => clients[Math.floor(n * stride)]);
}

/** From a figure to how full a leaf's colour is, between the worst and the best of the forest. */
function scale(clients, figure) {
  const values = clients.map((client) => finalOf(client, figure)).filter((value) => value !== null);
  const low = values.reduce((a, b) => Math.min(a, b), Infinity);
  const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  return (value) => {
    if (value === null || high <= low) return 0.75;
    const share = (value - low) / (high - low);
    return 0.3 + 0.7 * (figure === "perplexity" ? 1 - share : share);
  };
}
