// The version that is answered for: reload, back and forth, and clients that join by their probe.

import { bar, byId, element } from "./dom.js";
import { request, send } from "./http.js";
import { percent } from "./figures.js";

const ADMIN = { role: "admin" };

export class Versions {
  /** `changed` reads the forest again. */
  constructor(forest, changed, say) {
    this.forest = forest;
    this.changed = changed;
    this.say = say;
    forest.watch(() => this.#show());
    byId("reload").addEventListener("click", () => this.#become({}));
    byId("version-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#become({ version: byId("version").valueAsNumber });
    });
    byId("join-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#join(byId("new-client").value.trim(), byId("probe").files[0]);
    });
    byId("new-client").addEventListener("input", () => this.#hint());
    this.#hint();
  }

  #show() {
    const { version, parent } = this.forest.outline;
    byId("version-now").textContent = parent === null ? `${version}` : `${version}, which came from ${parent}`;
    byId("version").value = parent ?? version;
  }

  #hint() {
    const name = byId("new-client").value.trim() || "NAME";
    byId("probe-command").textContent = `silva forest probe FOREST --client ${name} --data DATA --out ${name}.probe`;
  }

  async #become(body) {
    try {
      const { version } = await send("/admin/v1/forest", body, ADMIN);
      this.say(`Version ${version} answers`);
      await this.changed();
    } catch (error) {
      this.say(error.message, true);
    }
  }

  async #join(name, probe) {
    const said = byId("joined");
    said.replaceChildren(element("p", { class: "quiet" }, "the probe is on its way …"));
    try {
      const headers = { "content-type": "application/octet-stream" };
      const path = `/admin/v1/forest/clients?client=${encodeURIComponent(name)}`;
      const response = await request(path, { ...ADMIN, method: "POST", headers, body: probe });
      const found = await response.json();
      said.replaceChildren(...this.#welcome(name, found));
      await this.changed();
    } catch (error) {
      said.replaceChildren(element("p", { class: "bad" }, error.message));
    }
  }

  #welcome(name, { cluster, similarities, version }) {
    const rows = Object.entries(similarities).map(([each, value]) =>
      element(
        "tr",
        { class: each === cluster ? "best" : null },
        element("th", { scope: "row" }, each),
        element("td", { class: "bar" }, bar(value)),
        element("td", { class: "number" }, percent(value)),
      ),
    );
    return [
      element("p", {}, element("b", {}, name), ` is in ${cluster} and is answered from now on (version ${version}).`),
      element("table", { class: "tiers" }, element("caption", {}, "How like each cluster its probe is"), element("tbody", {}, rows)),
    ];
  }
}
