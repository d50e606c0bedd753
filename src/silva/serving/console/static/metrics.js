// Latencies out of /metrics: what the histograms gained between two readings.

const SERIES = {
  ttft: "silva_time_to_first_token_seconds",
  tpot: "silva_inter_token_seconds",
};
const COUNTERS = {
  generated: "silva_generated_tokens_total",
  prompt: "silva_prompt_tokens_total",
  cached: "silva_cached_prompt_tokens_total",
};

/** Sums, counts and counters of an exposition: {ttft: {sum, count}, ..., generated, ...}. */
export function parsed(text) {
  const values = new Map();
  for (const line of text.split("\n")) {
    if (line.startsWith("#")) continue;
    const at = line.lastIndexOf(" ");
    if (at > 0) values.set(line.slice(0, at), Number(line.slice(at + 1)));
  }
  const found = {};
  for (const [name, series] of Object.entries(SERIES)) {
    found[name] = { sum: values.get(`${series}_sum`) ?? 0, count: values.get(`${series}_count`) ?? 0 };
  }
  for (const [name, series] of Object.entries(COUNTERS)) found[name] = values.get(series) ?? 0;
  return found;
}

/** Readings of the last while, and what happened between them. */
export class Window {
  constructor(length = 60) {
    this.length = length;
    this.readings = []; // oldest first: {at, ...parsed}
  }

  add(reading, at) {
    const last = this.readings.at(-1);
    if (last && reading.generated < last.generated) this.readings = []; // another server by now
    this.readings.push({ at, ...reading });
    if (this.readings.length > this.length) this.readings.shift();
  }

  /** Mean seconds of a histogram over the window; null where nothing happened in it. */
  mean(name) {
    return between(this.readings[0], this.readings.at(-1), name);
  }

  /** The same since the server started. */
  total(name) {
    const last = this.readings.at(-1)?.[name];
    return last?.count ? last.sum / last.count : null;
  }

  /** The mean of the window between each two readings that follow each other. */
  means(name) {
    return this.#steps((older, newer) => between(older, newer, name));
  }

  /** Tokens a second between each two readings. */
  rates(name) {
    return this.#steps((older, newer) => (1000 * (newer[name] - older[name])) / Math.max(1, newer.at - older.at));
  }

  /** Share of prompt tokens that came from a cache, since the server started. */
  get reused() {
    const last = this.readings.at(-1);
    return last?.prompt ? last.cached / last.prompt : null;
  }

  #steps(value) {
    return this.readings.slice(1).map((newer, n) => value(this.readings[n], newer));
  }
}

function between(older, newer, name) {
  if (!older || !newer) return null;
  const count = newer[name].count - older[name].count;
  return count > 0 ? (newer[name].sum - older[name].sum) / count : null;
}
