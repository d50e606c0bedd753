// Which client answers: a field that offers the names that fit what is written, a few at a time.

import { byId, element } from "./dom.js";

const MOST_OFFERED = 50;

export class Chooser {
  /** `changed` is called with a name of the forest, or "" for the base alone. */
  constructor(forest, changed) {
    this.forest = forest;
    this.input = byId("chosen");
    this.offers = byId("names");
    this.note = byId("chosen-note");
    this.changed = changed;
    this.all = [];
    this.input.addEventListener("input", () => this.#offer());
    this.input.addEventListener("change", () => this.#take());
  }

  /** Reads the names again; what was chosen stays if it is still there. */
  async refresh() {
    this.all = await this.forest.names();
    this.#offer();
    if (this.all.includes(this.input.value)) this.#take();
    else this.choose(this.all[0] ?? "");
  }

  choose(name) {
    this.input.value = name;
    this.#take();
  }

  #offer() {
    const wanted = this.input.value.trim().toLowerCase();
    const fitting = this.all.filter((name) => name.includes(wanted)).slice(0, MOST_OFFERED);
    this.offers.replaceChildren(...fitting.map((name) => element("option", { value: name })));
  }

  #take() {
    const name = this.input.value.trim();
    this.input.removeAttribute("aria-invalid");
    this.note.textContent = "";
    this.changed(name);
  }

  /** Says why the name cannot be asked. */
  refuse(message) {
    this.input.setAttribute("aria-invalid", "true");
    this.note.textContent = message;
  }
}
