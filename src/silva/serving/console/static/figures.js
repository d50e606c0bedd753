// How figures are written, and in which order tiers are.

const ORDER = ["root", "cluster", "leaf"];

/** 0.7384 -> "73.8 %", or a perplexity as it is. */
export function shown(figure, value) {
  if (value === undefined || value === null) return "–";
  if (figure === "accuracy") return `${(100 * value).toFixed(1)} %`;
  return value >= 1000 ? value.toExponential(2) : value.toFixed(2);
}

/** Names of tiers, the three of a path first. */
export function tiersOf(values) {
  const place = (tier) => (ORDER.includes(tier) ? ORDER.indexOf(tier) : ORDER.length);
  return Object.keys(values).sort((a, b) => place(a) - place(b) || (a < b ? -1 : 1));
}

/** What a client is judged by: its last tier of the path that was measured. */
export function finalOf(client, figure) {
  const values = client[figure];
  const last = [...ORDER].reverse().find((tier) => values[tier] !== undefined);
  return last === undefined ? null : values[last];
}

/** The mean by tier over clients. */
export function meansOf(clients, figure) {
  const sums = new Map();
  for (const client of clients) {
    for (const [tier, value] of Object.entries(client[figure])) {
      const [sum, count] = sums.get(tier) ?? [0, 0];
      sums.set(tier, [sum + value, count + 1]);
    }
  }
  return Object.fromEntries([...sums].map(([tier, [sum, count]]) => [tier, sum / count]));
}

export function milliseconds(seconds) {
  if (seconds === null) return "–";
  return seconds < 1 ? `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(2)} s`;
}

export function percent(share) {
  return share === null ? "–" : `${(100 * share).toFixed(0)} %`;
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; count >= 1024 && unit < units.length - 1; unit += 1) count /= 1024;
  return `${count.toFixed(unit && count < 10 ? 1 : 0)} ${units[unit]}`;
}
