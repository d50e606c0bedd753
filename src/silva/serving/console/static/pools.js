// The peers of the server as they are now, and the verbs that change them.

import { byId, element } from "./dom.js";
import { bytes, milliseconds, percent } from "./figures.js";
import { read, request, send } from "./http.js";
import { parsed, Window } from "./metrics.js";
import { poll } from "./poll.js";
import { keepingFocus, renew } from "./renew.js";
import { sparkline } from "./sparkline.js";

const PERIOD_MS = 2000;
const ROLES = ["prefill", "decode", "cache"];
const ADMIN = { role: "admin" };

export class Pools {
  constructor(kind, say) {
    this.kind = kind;
    this.say = say;
    this.window = new Window();
    this.busy = false;
    this.look = poll(() => this.#refresh(), () => !byId("pools").hidden, PERIOD_MS);
  }

  async #refresh() {
    try {
      const status = await read("/admin/v1/status", { ...ADMIN, quiet: true });
      const exposition = await (await request("/metrics", { quiet: true })).text();
      this.window.add(parsed(exposition), performance.now());
      byId("pools-refused").textContent = "";
      this.#draw(status);
    } catch (error) {
      byId("pools-refused").textContent = error.message;
    }
  }

  #draw(status) {
    this.status = status;
    const roles = [...Object.keys(status.pools), ...this.#empty(status)].sort(byRole);
    const peers = [...status.peers].sort((a, b) => byRole(a.role, b.role));
    keepingFocus(byId("pools"), byId("pools-title"), () => {
      renew(byId("latencies"), this.kind === "image" ? pictures(status) : this.#latencies(status));
      renew(byId("pool-cards"), roles.map((role) => this.#pool(role)));
      renew(byId("peers"), peers.map((peer) => this.#peer(peer)));
    });
  }

  /** Roles without a peer, where there are peers at all: the cache may have none. */
  #empty(status) {
    return status.pools.both ? [] : ROLES.filter((role) => !(role in status.pools));
  }

  #latencies({ cache, counters }) {
    const asked = cache.hits + cache.misses;
    const rates = this.window.rates("generated");
    return [
      this.#latency("Time to first token", "ttft"),
      this.#latency("Time per output token", "tpot"),
      stat("Tokens a second", rates.length ? rates.at(-1).toFixed(0) : "–", sparkline(rates, this.window.length)),
      stat("Cache hit rate", percent(asked ? cache.hits / asked : null), `${percent(this.window.reused)} of prompt tokens reused · ${bytes(cache.ram_bytes)} in RAM · ${bytes(cache.disk_bytes)} on disk`),
      stat("Requests", String(counters.requests ?? "–"), `${counters.finished ?? 0} finished · ${counters.failed ?? 0} failed · ${counters.retries ?? 0} retries`),
    ];
  }

  #latency(name, series) {
    const recent = this.window.mean(series);
    if (recent !== null) return stat(name, milliseconds(recent), sparkline(this.window.means(series), this.window.length));
    const total = this.window.total(series);
    return stat(name, milliseconds(total), total === null ? "nobody has asked" : "mean since the start");
  }

  #pool(role) {
    const pool = this.status.pools[role] ?? { peers: 0, ready: 0, queue: 0, running: 0, blocks_total: 0, blocks_used: 0 };
    const share = this.status.roles.busy[role];
    const count = this.#staying(role).length;
    const scale = role !== "both" && [
      this.#button(`One ${role} peer less`, "−", () => this.#scale(role, -1), count <= (role === "cache" ? 0 : 1)),
      this.#button(`One ${role} peer more`, "+", () => this.#scale(role, 1)),
    ];
    const facts = [["Queue", pool.queue], [role === "cache" ? "At work" : "Batch", pool.running]];
    if (share !== undefined) facts.push(["Busy", percent(share)]);
    if (pool.blocks_total) facts.push(["Blocks", `${pool.blocks_used} of ${pool.blocks_total}`]);
    return element(
      "section",
      { class: "card pool", "data-key": role, "aria-label": `${role} peers` },
      element("h3", {}, role === "both" ? "one process" : role, scale && element("span", { class: "steps" }, scale)),
      element("p", { class: "count" }, element("b", {}, `${pool.ready}`), ` of ${pool.peers} ready`),
      element("dl", {}, facts.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, String(value))])),
    );
  }

  #peer(peer) {
    const leaves = peer.role !== "both" && peer.state !== "draining";
    const acts = !leaves ? [] : [
      this.#button(`Drain ${peer.name}`, "Drain", () => this.#verb("drain", { peer: peer.name })),
      ...ROLES.filter((role) => role !== peer.role).map((role) =>
        this.#button(`Let ${peer.name} go on as ${role}`, `→ ${role}`, () => this.#verb("switch", { peer: peer.name, role })),
      ),
    ];
    const blocks = peer.blocks_total ? `${peer.blocks_used} of ${peer.blocks_total}` : "–";
    const cells = [["Role", peer.role], ["State", peer.state], ["Queue", peer.queue], ["Batch", peer.running], ["Blocks", blocks], ["Process", peer.pid]];
    return element(
      "tr",
      { role: "row", "data-key": peer.name },
      element("th", { role: "rowheader", scope: "row" }, peer.name),
      cells.map(([name, value]) => element("td", { role: "cell", "data-name": name, class: name === "State" ? `state ${peer.state}` : null }, String(value))),
      element("td", { role: "cell", class: "acts" }, acts),
    );
  }

  #button(label, text, act, disabled = false) {
    return element("button", { type: "button", "aria-label": label, title: label, disabled, onclick: act }, text);
  }

  /** Peers of a role that nobody has told to leave. */
  #staying(role) {
    return this.status.peers.filter((peer) => peer.role === role && peer.state !== "draining");
  }

  #scale(role, change) {
    this.#verb("scale", { roles: { [role]: this.#staying(role).length + change } });
  }

  async #verb(verb, body) {
    if (this.busy) return; // the numbers on the page are from before the verb under way
    this.busy = true;
    try {
      this.#draw(await send(`/admin/v1/${verb}`, body, ADMIN));
      this.say(`${verb}: done`);
    } catch (error) {
      this.say(error.message, true);
    } finally {
      this.busy = false;
    }
  }
}

/** What there is to tell of a server whose answers have no tokens. */
function pictures({ peers, counters: { images, batches, requests, finished, failed } }) {
  const seconds = peers.reduce((sum, peer) => sum + peer.step_s, 0);
  const each = (value) => (batches ? value / batches : null);
  return [
    stat("Images", images.toLocaleString("en"), `in ${batches.toLocaleString("en")} batches`),
    stat("Images in a batch", each(images)?.toFixed(1) ?? "–", "mean since the start"),
    stat("Time of a batch", milliseconds(each(seconds)), "mean since the start"),
    stat("Requests", requests.toLocaleString("en"), `${finished} finished · ${failed} failed`),
  ];
}

function byRole(one, other) {
  return ROLES.indexOf(one) - ROLES.indexOf(other);
}

function stat(name, value, below) {
  return element("div", { class: "card stat" }, element("h3", {}, name), element("p", { class: "value" }, value), element("div", { class: "below quiet" }, below));
}
