// One client, cluster or root from near: its figures by tier, the digests of its path, what can be done.

import { bar, element, tinted } from "./dom.js";
import { meansOf, shown, tiersOf } from "./figures.js";
import { Refused } from "./http.js";

const TIERS = ["root", "cluster", "leaf"];

/** `acts`: { ask(name), remove(name) } behind the buttons. */
export class Inspector {
  constructor(place, forest, acts) {
    this.place = place;
    this.forest = forest;
    this.acts = acts;
    this.name = null;
  }

  /** Shows what bears the name, or what one may do where nothing does. */
  async show(name) {
    this.name = name;
    const client = this.forest.clients.get(name);
    const cluster = this.forest.clusters.get(name);
    if (name !== "root" && !client && !cluster) {
      this.place.replaceChildren(element("p", { class: "quiet" }, "Choose a client, a cluster or the root."));
      return;
    }
    const path = element("div", { class: "path" }, element("p", { class: "quiet" }, "reading the path …"));
    const hue = client?.hue ?? cluster?.hue ?? null;
    const body = client ? this.#client(client) : this.#group(cluster?.clients ?? [...this.forest.clients.values()]);
    const whole = element(
      "div",
      { "data-tier": name === "root" ? "root" : null },
      element("h3", {}, element("i", { "aria-hidden": "true" }), name),
      body,
      element("h4", {}, "Path"),
      path,
      this.#buttons(name, client),
    );
    this.place.replaceChildren(tinted(whole, hue));
    await this.#path(path, name);
  }

  #client(client) {
    const facts = [
      ["Cluster", client.cluster ?? "none"],
      ["Leaf", client.leaf ? "of its own" : `none: ${client.cluster ?? "the root"} answers`],
      [this.forest.figure === "perplexity" ? "Windows of text" : "Images", client.images.toLocaleString("en")],
      ["Took part in training", client.seen ? "yes" : "no"],
    ];
    if (client.style) facts.push(["Style", client.style]);
    return [list(facts), ...this.#figures(client)];
  }

  #group(clients) {
    const leaves = clients.filter((client) => client.leaf).length;
    const means = { accuracy: meansOf(clients, "accuracy"), perplexity: meansOf(clients, "perplexity") };
    const facts = [["Clients", clients.length.toLocaleString("en")], ["With a leaf", leaves.toLocaleString("en")]];
    return [list(facts), ...this.#figures(means, "mean ")];
  }

  #figures(entry, prefix = "") {
    return ["accuracy", "perplexity"].filter((figure) => Object.keys(entry[figure]).length).flatMap((figure) => {
      const values = entry[figure];
      const most = figure === "accuracy" ? 1 : Math.max(...Object.values(values));
      const rows = tiersOf(values).map((tier) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, tier),
          element("td", { class: "bar" }, bar(values[tier] / most)),
          element("td", { class: "number" }, shown(figure, values[tier])),
        ),
      );
      const note = figure === "perplexity" ? ", lower is better" : "";
      return [element("table", { class: "tiers" }, element("caption", {}, `${prefix}${figure} by tier${note}`), element("tbody", {}, rows))];
    });
  }

  async #path(place, name) {
    let rows;
    try {
      const digests = (await this.forest.chain(name)).at(-1).path;
      const client = this.forest.clients.get(name);
      const tiers = client && !client.cluster ? ["root", "leaf"] : TIERS;
      rows = list(digests.map((digest, n) => [tiers[n] ?? "tier", element("code", {}, parted(digest))]));
      rows.classList.add("digests");
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      rows = element("p", { class: "quiet" }, error.message);
    }
    if (this.name === name) place.replaceChildren(rows);
  }

  #buttons(name, client) {
    return element(
      "div",
      { class: "buttons" },
      element("button", { type: "button", class: "main", onclick: () => this.acts.ask(name) }, `Ask ${name}`),
      client && element("button", { type: "button", class: "grave", onclick: () => this.acts.remove(name) }, "Remove …"),
    );
  }
}

/** In groups after which a line may end. */
function parted(digest) {
  return digest.match(/.{1,16}/g).flatMap((group) => [group, element("wbr")]);
}

function list(facts) {
  return element("dl", {}, facts.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)]));
}
