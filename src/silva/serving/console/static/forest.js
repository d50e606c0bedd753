// The forest that is answered for: read once, and again when it changed; and the names of its models.

import { Refused, read } from "./http.js";

const GOLDEN = 137.508; // degrees: neighbours in number are far apart in colour

export class Forest {
  constructor(about) {
    this.base = about.base;
    this.served = about.forest;
    this.outline = null; // as /admin/v1/forest/tree tells it
    this.clients = new Map(); // name -> its entry, with `cluster` and `hue`
    this.clusters = new Map(); // name -> its entry, with `hue`
    this.watchers = [];
  }

  /** `watcher` is called whenever the forest was read. */
  watch(watcher) {
    this.watchers.push(watcher);
  }

  async load(options = {}) {
    if (!this.served) return;
    const outline = await read("/admin/v1/forest/tree", { role: "admin", ...options });
    this.outline = outline;
    this.clients = new Map();
    this.clusters = new Map();
    outline.clusters.forEach((cluster, number) => {
      const hue = (150 + number * GOLDEN) % 360;
      this.clusters.set(cluster.name, { ...cluster, hue });
      this.#add(cluster.clients, cluster.name, hue);
    });
    this.#add(outline.clients, null, null);
    this.watchers.forEach((watcher) => watcher());
  }

  #add(clients, cluster, hue) {
    for (const client of clients) {
      this.clients.set(client.name, Object.assign(client, { cluster, hue }));
    }
  }

  get figure() {
    return this.outline.figure;
  }

  model(name) {
    return name ? `${this.base}@${name}` : this.base;
  }

  /** Names that can be chosen; from the models that the API key opens where the tree is not shown. */
  async names() {
    if (this.outline) return [...this.clients.keys(), ...this.clusters.keys(), "root"];
    const { data } = await read("/v1/models");
    const ids = data.map((card) => card.id);
    this.base = data[0]?.root ?? this.base;
    const start = `${this.base}@`;
    return ids.filter((id) => id.startsWith(start)).map((id) => id.slice(start.length)).reverse();
  }

  /** The models along a path, the base first, as far as the key opens them: [{id, path, tier}]. */
  async chain(name) {
    const found = [];
    for (let id = this.model(name); id; ) {
      try {
        const card = await read(`/v1/models/${encodeURIComponent(id)}`);
        found.unshift({ id: card.id, path: card.path, tier: this.tierOf(card.id) });
        id = card.parent;
      } catch (error) {
        if (!(error instanceof Refused) || error.status !== 404 || !found.length) throw error;
        break;
      }
    }
    return found;
  }

  tierOf(id) {
    if (id === this.base) return "base";
    const name = id.slice(this.base.length + 1);
    if (name === "root") return "root";
    return name.startsWith("cluster-") ? "cluster" : "leaf";
  }
}
