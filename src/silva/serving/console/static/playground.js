// Questions, and the answers of base, root, cluster and leaf side by side.

import { byId, element, tinted } from "./dom.js";
import { Chooser } from "./chooser.js";

const TITLES = { base: "Base", root: "Root", cluster: "Cluster", leaf: "Client" };

/**
 * The part that chats and images have in common. `way` makes the form and the answers:
 *
 * reset()              the models are others now
 * answer(question, model, card, signal)    fills `card` with what `model` says
 */
export class Playground {
  constructor(forest) {
    this.forest = forest;
    this.turns = byId("turns");
    this.chooser = new Chooser(forest, (name) => this.#change(name));
    this.models = [];
    this.stopping = null;
    byId("again").addEventListener("click", () => this.reset());
    byId("halt").addEventListener("click", () => this.stopping?.abort());
  }

  use(way) {
    this.way = way;
  }

  reset() {
    this.stopping?.abort();
    this.turns.replaceChildren();
    this.way.reset();
  }

  async #change(name) {
    const chain = this.forest.chain(name).catch((error) => {
      if (this.chain === chain) this.chooser.refuse(error.message);
      return [];
    });
    this.chain = chain;
    const models = await chain;
    if (this.chain !== chain) return; // another one was chosen meanwhile
    this.models = models;
    this.reset();
  }

  /** Asks every model of the path at once; `shown` is the question as an element. */
  async ask(question, shown) {
    await this.chain;
    if (!this.models.length) {
      this.chooser.refuse("Choose who answers first.");
      return;
    }
    this.stopping?.abort();
    const stopping = new AbortController();
    this.stopping = stopping;
    const cards = this.models.map((model) => this.#card(model));
    const grid = element("div", { class: "answers" }, cards.map((card) => card.place));
    this.turns.prepend(element("article", { class: "turn" }, shown, grid));
    byId("halt").hidden = false;
    byId("heard").textContent = `${cards.length} models are asked`;
    const done = await Promise.all(this.models.map((model, n) => this.#answer(question, model, cards[n], stopping.signal)));
    if (this.stopping === stopping) {
      byId("halt").hidden = true;
      byId("heard").textContent = `${done.filter(Boolean).length} of ${cards.length} models have answered`;
    }
  }

  async #answer(question, model, card, signal) {
    try {
      await this.way.answer(question, model, card, signal);
      return true;
    } catch (error) {
      const message = error.name === "AbortError" ? "stopped" : error.message;
      card.body.append(element("p", { class: "bad" }, message));
      return false;
    } finally {
      card.place.setAttribute("aria-busy", "false");
    }
  }

  #card(model) {
    const name = model.id.slice(this.forest.base.length + 1);
    const home = this.models.find((each) => each.tier === "cluster")?.id.slice(this.forest.base.length + 1);
    const hue = this.forest.clusters.get(model.tier === "leaf" ? home : name)?.hue ?? null;
    const body = element("div", { class: "said" });
    const foot = element("p", { class: "foot quiet" });
    const heading = element("h4", {}, element("i", { "aria-hidden": "true" }), TITLES[model.tier], name && name !== model.tier ? element("small", {}, name) : null);
    const place = element("section", { class: "answer", "aria-label": `${TITLES[model.tier]} ${name}`, "aria-busy": "true", "data-model": model.id, "data-tier": model.tier }, heading, body, foot);
    return { place: tinted(place, hue), body, foot };
  }
}
