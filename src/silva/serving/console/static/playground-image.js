// Vision Transformers: a picture by file, by drop or by paste, and what each model sees on it.

import { bar, byId, element } from "./dom.js";
import { percent } from "./figures.js";
import { request, send } from "./http.js";

const TOP = 5;

export class Images {
  constructor(playground, about) {
    this.playground = playground;
    byId("image-form").hidden = false;
    const file = byId("picture");
    file.addEventListener("change", () => {
      this.#take(file.files[0]);
      file.value = "";
    });
    const drop = byId("drop");
    for (const kind of ["dragover", "drop"]) {
      drop.addEventListener(kind, (event) => event.preventDefault());
    }
    drop.addEventListener("dragenter", () => drop.classList.add("over"));
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      drop.classList.remove("over");
      this.#take(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => this.#take(event.clipboardData.files[0]));
    byId("samples").replaceChildren(...about.samples.map((label, n) => this.#sample(label, n)));
    byId("samples-label").hidden = !about.samples.length;
  }

  reset() {}

  #sample(label, n) {
    const address = `/console/sample/${n}`;
    const use = async () => this.#take(await (await request(address)).blob(), label);
    return element("button", { type: "button", title: label, onclick: use }, element("img", { src: address, alt: label }));
  }

  async #take(file, name = file?.name) {
    if (!file || byId("playground").hidden) return;
    const address = URL.createObjectURL(file);
    const picture = element("img", { src: address, alt: name || "the picture", class: "asked" });
    // where the browser cannot show it the server may still read it
    picture.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
    const shown = element("h3", { class: "question" }, picture, element("span", {}, name || ""));
    await this.playground.ask(await base64(file), shown);
  }

  async answer(image, model, card, signal) {
    const body = { model: model.id, images: [image], top_k: TOP };
    const { data } = await send("/v1/classify", body, { signal });
    const rows = data[0].classes.map(({ label, probability }) =>
      element(
        "li",
        {},
        element("span", {}, label),
        element("span", { class: "number" }, percent(probability)),
        bar(probability),
      ),
    );
    card.body.append(element("ol", { class: "classes" }, rows));
  }
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(text);
}
